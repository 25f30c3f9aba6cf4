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

// Below, packing costs more than the faster product saves.
constexpr std::int64_t kFewRows = 16;

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

bool worth_tiles(const at::Tensor& a, const at::Tensor& w) {
  if (!a.is_cpu() || a.numel() == 0 || w.numel() == 0 ||
      !has_micro_kernel(w.scalar_type())) {
    return false;
  }
  return w.scalar_type() == at::kFloat
             ? a.size(0) >= kFewRows
             : w.size(0) % 2 == 0 && w.size(1) % 2 == 0;
}

void by_tiles(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
              const at::Tensor& bias, const Thin& thin, bool transposed) {
  const at::Tensor left =
      w.scalar_type() == at::kFloat ? a : a.to(w.scalar_type());
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
       .m = a.size(0),
       .n = w.size(transposed ? 0 : 1),
       .k = a.size(1),
       .row_a = left.stride(0),
       .row_b = w.stride(0),
       .row_out = out.stride(0),
       .transposed = transposed,
       .thin = second},
      w.scalar_type());
}

// b [K, N], any strides.
void by_library(at::Tensor& out, const at::Tensor& a, const at::Tensor& b,
                const at::Tensor& bias, const at::Tensor& thin_a = {},
                const at::Tensor& thin_b = {}) {
  const at::NoGradGuard no_grad;
  if (b.is_cuda() && b.scalar_type() == at::kBFloat16) {
    at::mm_out(out, a.to(at::kBFloat16), b, at::kFloat);
    if (bias.defined()) out.add_(bias);
    if (thin_a.defined()) out.addmm_(thin_a, thin_b);
    return;
  }
  // The CPU library's product of bf16 numbers would round its results.
  const at::Tensor left =
      b.scalar_type() == at::kFloat ? a : a.to(b.scalar_type()).to(at::kFloat);
  const at::Tensor right = b.to(at::kFloat);
  if (bias.defined()) {
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
                    const at::Tensor& bias, const Thin& thin) {
  check(out, a, w, w.size(1));
  if (thin.a.defined()) check(out, thin.a, thin.w, thin.w.size(1));
  if (worth_tiles(a, w)) {
    by_tiles(out, a, w, bias, thin, true);
  } else {
    by_library(out, a, w.t(), bias, thin.a,
               thin.a.defined() ? thin.w.t() : at::Tensor());
  }
}

void matmul_nn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w,
                    const Thin& thin) {
  check(out, a, w, w.size(0));
  if (thin.a.defined()) check(out, thin.a, thin.w, thin.w.size(0));
  if (worth_tiles(a, w)) {
    by_tiles(out, a, w, {}, thin, false);
  } else {
    by_library(out, a, w, {}, thin.a, thin.w);
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
                     const at::Tensor& bias, const Thin& thin) {
  at::Tensor out = empty_like_product(a, a.size(0), w.size(0));
  matmul_nt_into(out, a, w, bias, thin);
  return out;
}

at::Tensor matmul_nn(const at::Tensor& a, const at::Tensor& w,
                     const Thin& thin) {
  at::Tensor out = empty_like_product(a, a.size(0), w.size(1));
  matmul_nn_into(out, a, w, thin);
  return out;
}

at::Tensor matmul_tn(const at::Tensor& a, const at::Tensor& b) {
  at::Tensor out = empty_like_product(a, a.size(1), b.size(1));
  matmul_tn_into(out, a, b);
  return out;
}

}  // namespace thinwire
