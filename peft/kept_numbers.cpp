#include "peft/kept_numbers.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/error.h"
#include "ops/top_k.h"

namespace thinwire {
namespace {

std::int64_t sum(std::span<const std::int64_t> numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), std::int64_t{0});
}

// Of either sign, by a sort.
std::vector<at::Tensor> keep_sorted(std::span<const at::Tensor> scores,
                                    std::int64_t k) {
  std::vector<at::Tensor> flat;
  for (const at::Tensor& s : scores) flat.push_back(s.reshape({-1}));
  const at::Tensor order = std::get<1>(at::cat(flat).sort(
      /*stable=*/true, /*dim=*/0, /*descending=*/true));
  const at::Tensor kept = std::get<0>(order.narrow(0, 0, k).sort());
  const auto* first = kept.const_data_ptr<std::int64_t>();
  const auto* const last = first + k;
  std::vector<at::Tensor> out;
  std::int64_t begin = 0;
  for (const at::Tensor& f : flat) {
    const auto* const end = std::lower_bound(first, last, begin + f.numel());
    out.push_back(kept.slice(0, k - (last - first), k - (last - end))
                      .sub(begin)
                      .to(at::kInt));
    begin += f.numel();
    first = end;
  }
  return out;
}

}  // namespace

std::int64_t exact_share(double density, std::int64_t n) {
  constexpr std::int64_t kUnit = 1'000'000'000;
  const auto units = static_cast<__int128>(std::llround(density * kUnit));
  return static_cast<std::int64_t>(units * n / kUnit);
}

std::vector<std::int64_t> shares_of(std::int64_t k,
                                    std::span<const std::int64_t> weights) {
  const std::int64_t all = sum(weights);
  THINWIRE_ASSERT(k == 0 || (k > 0 && all > 0), "shares of {} by weights of {}",
                  k, all);
  if (k == 0) return std::vector<std::int64_t>(weights.size());
  std::vector<std::int64_t> shares, rest;
  std::int64_t left = k;
  for (const std::int64_t w : weights) {
    const auto product = static_cast<__int128>(k) * w;
    shares.push_back(static_cast<std::int64_t>(product / all));
    rest.push_back(static_cast<std::int64_t>(product % all));
    left -= shares.back();
  }
  std::vector<std::size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(),
                           [&](std::size_t i) { return rest[i]; });
  // Fewer are left than shares have a remainder.
  for (std::size_t i = 0; left > 0; ++i, --left) ++shares[order[i]];
  return shares;
}

std::vector<std::int64_t> erdos_renyi_quotas(
    std::span<const std::vector<std::int64_t>> shapes, std::int64_t k) {
  std::vector<std::int64_t> quotas(shapes.size()), weights, sizes;
  for (const auto& shape : shapes) {
    weights.push_back(sum(shape));
    sizes.push_back(std::accumulate(shape.begin(), shape.end(), std::int64_t{1},
                                    std::multiplies<>()));
  }
  THINWIRE_ASSERT(k >= 0 && k <= sum(sizes), "{} of {} numbers", k, sum(sizes));
  // A tensor that would have more than all of its numbers has them all; what is
  // left goes to the others.
  std::int64_t left = k;
  for (bool again = true; again && sum(weights) > 0;) {
    again = false;
    const std::vector<std::int64_t> shares = shares_of(left, weights);
    for (std::size_t i = 0; i < shapes.size(); ++i) {
      if (weights[i] == 0) continue;
      quotas[i] = std::min(shares[i], sizes[i]);
      if (shares[i] <= sizes[i]) continue;
      weights[i] = 0;
      left -= sizes[i];
      again = true;
    }
  }
  return quotas;
}

std::vector<at::Tensor> keep_largest(std::span<const at::Tensor> scores,
                                     std::int64_t k) {
  const bool negative = std::ranges::any_of(scores, [](const at::Tensor& s) {
    THINWIRE_ASSERT(s.numel() < INT32_MAX, "{} scores", s.numel());
    if (!s.isfinite().all().item<bool>()) {
      fail<UsageError>("a score is not finite");
    }
    return s.lt(0).any().item<bool>();
  });
  return negative ? keep_sorted(scores, k) : top_k_indices(scores, k);
}

std::vector<at::Tensor> keep_quotas(std::span<const at::Tensor> scores,
                                    std::span<const std::int64_t> quotas) {
  std::vector<at::Tensor> out;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    out.push_back(keep_largest(scores.subspan(i, 1), quotas[i]).front());
  }
  return out;
}

}  // namespace thinwire
