#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/matmul.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "base/error.h"

namespace thinwire {
namespace {

void check(const at::Tensor& a, const at::Tensor& w, std::int64_t inner) {
  THINWIRE_ASSERT(a.scalar_type() == at::kFloat && a.dim() == 2 &&
                      w.dim() == 2 && a.size(1) == inner &&
                      w.is_contiguous(),
                  "{} columns times {} rows", a.size(1), inner);
}

void into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w) {
  const at::NoGradGuard no_grad;
  if (w.scalar_type() == at::kFloat) {
    at::mm_out(out, a, w);
  } else {
    out.copy_(at::mm(a.to(w.scalar_type()), w));
  }
}

}  // namespace

void matmul_nt_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w) {
  check(a, w, w.size(1));
  into(out, a, w.t());
}

void matmul_nn_into(at::Tensor& out, const at::Tensor& a, const at::Tensor& w) {
  check(a, w, w.size(0));
  into(out, a, w);
}

at::Tensor matmul_nt(const at::Tensor& a, const at::Tensor& w) {
  at::Tensor out = at::empty({a.size(0), w.size(0)},
                             a.options().requires_grad(false));
  matmul_nt_into(out, a, w);
  return out;
}

at::Tensor matmul_nn(const at::Tensor& a, const at::Tensor& w) {
  at::Tensor out = at::empty({a.size(0), w.size(1)},
                             a.options().requires_grad(false));
  matmul_nn_into(out, a, w);
  return out;
}

}  // namespace thinwire
