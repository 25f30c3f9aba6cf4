#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/top_k.h"

#include <ATen/ops/empty.h>

#include <bit>
#include <limits>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::uint32_t kInfinity = 0x7f800000u;

// Orders like the number; -0 counts as 0.
std::uint32_t order_bits(float score) {
  const auto bits = std::bit_cast<std::uint32_t>(score);
  return bits == 0x80000000u ? 0 : bits;
}

// The same, or, for the smallest, the other way round.
class Order {
 public:
  explicit Order(Extreme which)
      : flip_(which == Extreme::kSmallest ? 0x7fffffffu : 0) {}
  std::uint32_t operator()(float score) const {
    return order_bits(score) ^ flip_;
  }

 private:
  std::uint32_t flip_;
};

struct Histogram {
  std::vector<std::int64_t> counts = std::vector<std::int64_t>(1 << 16);

  // Walks from the largest bin down to the one that holds the k-th largest
  // (k >= 1), subtracting from k what lies above it.
  std::uint32_t find(std::int64_t& k) const {
    std::uint32_t bin = (1 << 16) - 1;
    for (; counts[bin] < k; --bin) k -= counts[bin];
    return bin;
  }
};

template <class Index>
at::Tensor collect(const at::Tensor& scores, Order order,
                   std::uint32_t threshold, std::int64_t& ties) {
  const auto* x = scores.const_data_ptr<float>();
  const std::int64_t n = scores.numel();
  std::int64_t count = 0, ties_left = ties;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = order(x[i]);
    if (bits > threshold || (bits == threshold && ties_left-- > 0)) ++count;
  }
  at::Tensor out = at::empty(
      {count}, at::TensorOptions().dtype(c10::CppTypeToScalarType<Index>()));
  auto* index = out.template mutable_data_ptr<Index>();
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = order(x[i]);
    if (bits < threshold) continue;
    if (bits == threshold) {
      if (ties == 0) continue;
      --ties;
    }
    *index++ = static_cast<Index>(i);
  }
  return out;
}

void count_high_halves(const at::Tensor& scores, std::size_t which, Order order,
                       Histogram& high) {
  const auto* x = scores.const_data_ptr<float>();
  for (std::int64_t i = 0; i < scores.numel(); ++i) {
    if (order_bits(x[i]) >= kInfinity) {
      fail<UsageError>(
          "score {} of tensor {} is {}; scores must be finite and not negative",
          i, which, x[i]);
    }
    ++high.counts[order(x[i]) >> 16];
  }
}

}  // namespace

std::vector<at::Tensor> top_k_indices(std::span<const at::Tensor> scores,
                                      std::int64_t k, Extreme which) {
  const Order order(which);
  std::int64_t total = 0;
  for (const at::Tensor& s : scores) {
    THINWIRE_ASSERT(s.scalar_type() == at::kFloat && s.is_contiguous(),
                    "scores must be contiguous fp32, got {}",
                    c10::toString(s.scalar_type()));
    total += s.numel();
  }
  if (k < 0 || k > total) {
    fail<UsageError>("top-k: k must be in [0, {}], got {}", total, k);
  }

  Histogram high;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    count_high_halves(scores[t], t, order, high);
  }
  // Nothing orders above this, so k = 0 collects nothing.
  std::uint32_t threshold = std::numeric_limits<std::uint32_t>::max();
  std::int64_t ties = k;  // after both passes: how many equal to the threshold
  if (k > 0) {
    const std::uint32_t top = high.find(ties);
    Histogram low;
    for (const at::Tensor& s : scores) {
      const auto* x = s.const_data_ptr<float>();
      for (std::int64_t i = 0; i < s.numel(); ++i) {
        const std::uint32_t bits = order(x[i]);
        if (bits >> 16 == top) ++low.counts[bits & 0xffff];
      }
    }
    threshold = top << 16 | low.find(ties);
  }

  std::vector<at::Tensor> out;
  out.reserve(scores.size());
  for (const at::Tensor& s : scores) {
    out.push_back(s.numel() > std::numeric_limits<std::int32_t>::max()
                      ? collect<std::int64_t>(s, order, threshold, ties)
                      : collect<std::int32_t>(s, order, threshold, ties));
  }
  return out;
}

}  // namespace thinwire
