#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/robust_split.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>

#include "base/random.h"

namespace thinwire {
namespace {

constexpr double kLarge = 0.01;      // what S holds
constexpr std::int64_t kGrowth = 5;  // of the rank, a round

at::Tensor orthonormal(const at::Tensor& columns) {
  return std::get<0>(at::linalg_qr(columns));
}

}  // namespace

at::Tensor beside_low_rank(const at::Tensor& weight, std::int64_t numbers,
                           std::int64_t rounds, std::uint64_t seed) {
  const at::Tensor w = weight.cpu().to(at::kDouble).contiguous();
  const std::int64_t least = std::min(w.size(0), w.size(1));
  at::Tensor start = at::empty({1, w.size(1)}, at::kFloat);
  fill_normal(start.mutable_data_ptr<float>(), start.numel(), seed,
              "dsee.split", 1);
  at::Tensor v = start.to(at::kDouble), found;
  for (std::int64_t round = 0; round < rounds; ++round) {
    at::Tensor beside, large = at::zeros_like(w);
    for (int i = 0; i < 2; ++i) {
      const at::Tensor low = w.sub(large);
      const at::Tensor u = orthonormal(low.matmul(v.t()));
      v = u.t().matmul(low);
      beside = w.sub(u.matmul(v));
      large = beside.masked_fill(beside.abs().lt(kLarge), 0);
    }
    if (found.defined() && large.ne(0).sum().item<std::int64_t>() < numbers) {
      break;
    }
    found = beside.abs();
    if (v.size(0) + kGrowth >= least) break;
    // The first rows of R in a QR decomposition of what is small: what the
    // first columns of Q, those of its own first columns, make of it.
    const at::Tensor small = beside.sub(large);
    const at::Tensor q = orthonormal(small.narrow(1, 0, kGrowth));
    v = at::cat({v, q.t().matmul(small)});
  }
  return found;
}

}  // namespace thinwire
