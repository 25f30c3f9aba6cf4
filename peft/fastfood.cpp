#include "peft/fastfood.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones.h>

#include <bit>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

// Sylvester's: [2^k, 2^k] of +-1, symmetric.
at::Tensor hadamard(int k) {
  at::Tensor h = at::ones({1, 1}, at::kFloat);
  for (int i = 0; i < k; ++i) {
    h = at::cat({at::cat({h, h}, 1), at::cat({h, h.neg()}, 1)}, 0);
  }
  return h;
}

}  // namespace

Fastfood::Fastfood(std::int64_t dimension,
                   const std::vector<std::int64_t>& numbers, std::uint64_t seed,
                   at::Device device) {
  THINWIRE_ASSERT(dimension >= 1 && dimension <= 1 << 20, "dimension {}",
                  dimension);
  const int bits = std::bit_width(static_cast<std::uint64_t>(dimension - 1));
  padded_ = std::int64_t{1} << bits;
  left_ = hadamard((bits + 1) / 2).to(device);
  right_ = hadamard(bits / 2).to(device);

  std::vector<std::int64_t> rows;
  for (const std::int64_t n : numbers) {
    rows.push_back((n + padded_ - 1) / padded_);
  }
  const std::int64_t all = std::reduce(rows.begin(), rows.end());
  const std::vector<std::int64_t> shape{all, padded_};
  const at::Tensor signs = uniform_values("fastfood.signs", shape, 1, seed)
                               .ge(0)
                               .to(at::kChar)
                               .mul(2)
                               .sub(1);
  // Random keys, sorted: equal ones stay as they lie.
  const at::Tensor order =
      std::get<1>(uniform_values("fastfood.order", shape, 1, seed)
                      .sort(/*stable=*/true, /*dim=*/1, /*descending=*/false))
          .to(at::kInt);
  at::Tensor normal = normal_values("fastfood.normal", shape, 1, seed);
  const at::Tensor squares = normal.mul(normal).sum({1}, /*keepdim=*/true);
  normal.div_(squares.mul(static_cast<double>(dimension)).sqrt());

  std::int64_t first = 0;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    const auto own = [&](const at::Tensor& t) {
      return t.narrow(0, first, rows[i]);
    };
    const at::Tensor row =
        at::arange(rows[i], at::kInt).mul(padded_).unsqueeze(1);
    blocks_.push_back({own(signs).to(device),
                       own(order).add(row).view({-1}).to(device),
                       own(normal).to(device), numbers[i]});
    first += rows[i];
  }
}

at::Tensor Fastfood::transform(const at::Tensor& x) const {
  return left_
      .matmul(x.reshape({-1, left_.size(0), right_.size(0)}).matmul(right_))
      .reshape({-1, padded_});
}

at::Tensor Fastfood::operator()(const at::Tensor& theta,
                                std::size_t tensor) const {
  const Blocks& b = blocks_[tensor];
  const at::Tensor filled =
      at::constant_pad_nd(theta, {0, padded_ - theta.size(0)});
  const at::Tensor mixed = transform(b.signs.mul(filled))
                               .reshape({-1})
                               .index_select(0, b.order)
                               .view({-1, padded_});
  return transform(mixed.mul(b.normal)).reshape({-1}).narrow(0, 0, b.numbers);
}

}  // namespace thinwire
