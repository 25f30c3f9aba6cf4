#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/matmul.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "base/error.h"
#include "ops/matmul_tiles.h"
#include "ops/micro_kernel.h"

namespace thinwire {
namespace {

// With fewer rows LibTorch's product is as fast or faster: where b lies as the
// micro-kernel wants it, and where something must be transposed for it.
constexpr std::int64_t kFewRows = 2, kFewRowsTransposed = 12;

void check(const at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
           std::int64_t inner) {
  THINWIRE_ASSERT(a.scalar_type() == at::kFloat && a.dim() == 2 &&
                      w.dim() == 2 && a.size(1) == inner && w.is_contiguous() &&
                      (a.size(1) <= 1 || a.stride(1) == 1) &&
                      (out.size(1) <= 1 || out.stride(1) == 1) &&
                      out.scalar_type() == at::kFloat &&
                      out.size(0) == a.size(0),
                  "[{}, {}] times {} rows, into {} rows", a.size(0), a.size(1),
                  inner, out.size(0));
}

// What tiles of w are multiplied in: pairs of bf16 where w fits them; int8 fits
// both. Undefined: not by tiles.
at::ScalarType tile_type(const at::Tensor& a, const at::Tensor& w,
                         bool transposed) {
  constexpr auto kNone = at::ScalarType::Undefined;
  if (!a.is_cpu() || a.numel() == 0 || w.numel() == 0) return kNone;
  const at::ScalarType type = w.scalar_type();
  const bool pairs = w.size(0) % 2 == 0 && w.size(1) % 2 == 0;
  if (type != at::kFloat && pairs && has_micro_kernel(at::kBFloat16)) {
    return at::kBFloat16;
  }
  const std::int64_t few = transposed ? kFewRowsTransposed : kFewRows;
  if (type == at::kBFloat16 || a.size(0) < few) return kNone;
  return has_micro_kernel(at::kFloat) ? at::kFloat : kNone;
}

// a as it meets w, in `type`.
at::Tensor rounded_for(const at::Tensor& a, const at::Tensor& w,
                       at::ScalarType type) {
  return w.scalar_type() == at::kFloat ? a : a.to(at::kBFloat16).to(type);
}

void by_tiles(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
              const at::Tensor& bias, const Thin& thin, bool transposed,
              at::ScalarType type, const at::Tensor& scale = {}) {
  const at::Tensor left = rounded_for(a, w, type);
  ThinProduct second;
  if (thin.a.defined()) {
    second = {thin.a.const_data_ptr<float>(), thin.w.const_data_ptr<float>(),
              thin.a.size(1), thin.a.stride(0), thin.w.stride(0)};
  }
  tiled_product(
      {.a = left.const_data_ptr(),
       .b = w.const_data_ptr(),
       .out = out.mutable_data_ptr<float>(),
       .bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr,
       .scale = scale.defined() ? scale.const_data_ptr<float>() : nullptr,
       .m = a.size(0),
       .n = w.size(transposed ? 0 : 1),
       .k = a.size(1),
       .row_a = left.stride(0),
       .row_b = w.stride(0),
       .row_out = out.stride(0),
       .transposed = transposed,
       .int8 = w.scalar_type() == at::kChar,
       .thin = second},
      type);
}

// b [K, N], any strides.
void by_library(at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                const at::Tensor& bias, const at::Tensor& thin_a = {},
                const at::Tensor& thin_b = {}, const at::Tensor& scale = {}) {
  const at::NoGradGuard no_grad;
  if (b.is_cuda() && b.scalar_type() == at::kBFloat16) {
    at::mm_out(out, a.to(at::kBFloat16), b, at::kFloat);
    if (bias.defined()) out.add_(bias);
    if (thin_a.defined()) out.addmm_(thin_a, thin_b);
    return;
  }
  // The CPU library's product of bf16 numbers would round its results.
  const at::Tensor left = rounded_for(a, b, at::kFloat);
  const at::Tensor right = b.to(at::kFloat);
  if (scale.defined()) {
    at::mm_out(out, left, right);
    out.mul_(scale);
    if (bias.defined()) out.add_(bias);
  } else if (bias.defined()) {
    at::addmm_out(out, bias, left, right);
  } else {
    at::mm_out(out, left, right);
  }
  if (thin_a.defined()) out.addmm_(thin_a, thin_b);
}

at::Tensor empty_like_product(const at::Tensor& a, std::int64_t rows,
                              std::int64_t columns) {
  return at::empty({rows, columns}, a.options().requires_grad(false));
}

}  // namespace

void matmul_nt_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
                    const at::Tensor& bias, const Thin& thin,
                    const at::Tensor& scale) {
  check(out, a, w, w.size(1));
  if (thin.a.defined()) check(out, thin.a, thin.w, thin.w.size(1));
  const at::ScalarType type = tile_type(a, w, /*transposed=*/true);
  if (type != at::ScalarType::Undefined) {
    by_tiles(out, a, w, bias, thin, true, type, scale);
  } else {
    by_library(out, a, w.t(), bias, thin.a,
               thin.a.defined() ? thin.w.t() : at::Tensor(), scale);
  }
}

void matmul_nn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
                    const at::Tensor& bias, const Thin& thin,
                    const at::Tensor& scale) {
  check(out, a, w, w.size(0));
  if (thin.a.defined()) check(out, thin.a, thin.w, thin.w.size(0));
  const at::ScalarType type = tile_type(a, w, /*transposed=*/false);
  if (type != at::ScalarType::Undefined) {
    by_tiles(out, a, w, bias, thin, false, type, scale);
  } else {
    by_library(out, a, w, bias, thin.a, thin.w, scale);
  }
}

void matmul_tn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& b) {
  if (a.is_cpu() && a.size(1) >= kFewRows && b.numel() > 0 &&
      has_micro_kernel(at::kFloat)) {
    matmul_nn_into(out, a.detach().t().contiguous(), b);
  } else {
    by_library(out, a.t(), b, {});
  }
}

at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& w,
                     const at::Tensor& bias, const Thin& thin,
                     const at::Tensor& scale) {
  at::Tensor out = empty_like_product(a, a.size(0), w.size(0));
  matmul_nt_into(out, a, w, bias, thin, scale);
  return out;
}

at::Tensor matmul_nn(const at::Tensor& a, const at::Tensor& w,
                     const at::Tensor& bias, const Thin& thin,
                     const at::Tensor& scale) {
  at::Tensor out = empty_like_product(a, a.size(0), w.size(1));
  matmul_nn_into(out, a, w, bias, thin, scale);
  return out;
}

at::Tensor matmul_tn(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = empty_like_product(a, a.size(1), b.size(1));
  matmul_tn_into(out, a, b);
  return out;
}

}  // namespace thinwire
