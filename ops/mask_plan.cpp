#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/mask_plan.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/error.h"
#include "ops/sampled_dots.h"

namespace thinwire {
namespace {

// Stretches cost 16 bytes per 64 weights of a touched row: below one position
// in so many weights they would be the larger part of the plan.
constexpr std::int64_t kDenseShare = 8;
constexpr std::int64_t kStretch = 64;

template <class Index>
void check_positions(const Index* index, std::int64_t k, std::int64_t out,
                     std::int64_t in, std::string_view name) {
  std::int64_t before = -1;
  for (std::int64_t i = 0; i < k; ++i) {
    const auto at = static_cast<std::int64_t>(index[i]);
    if (at < 0 || at >= out * in) {
      fail<UsageError>(
          "{}: position {} is {}, out of range [0, {}) of [{}, {}]", name, i,
          at, out * in, out, in);
    }
    if (at <= before) {
      fail<UsageError>(
          "{}: position {} is {} and the one before it {}; they must ascend "
          "without repetition",
          name, i, at, before);
    }
    before = at;
  }
}

// Number of each touched column among them, -1 for the others.
template <class Index>
std::vector<std::int32_t> number_columns(MaskPlan& plan, const Index* index,
                                         std::int64_t k) {
  std::vector<std::int32_t> number(static_cast<std::size_t>(plan.in), -1);
  for (std::int64_t i = 0; i < k; ++i) {
    number[static_cast<std::size_t>(index[i] % plan.in)] = 0;
  }
  for (std::size_t c = 0; c < number.size(); ++c) {
    if (number[c] < 0) continue;
    number[c] = static_cast<std::int32_t>(plan.columns.size());
    plan.columns.push_back(static_cast<std::int32_t>(c));
  }
  return number;
}

template <class Index>
void lay_out(MaskPlan& plan, const Index* index, std::int64_t k) {
  const std::vector<std::int32_t> number = number_columns(plan, index, k);
  plan.pairs.resize(static_cast<std::size_t>(k));
  for (std::int64_t i = 0; i < k; ++i) {
    const auto row = static_cast<std::int32_t>(index[i] / plan.in);
    if (plan.rows.empty() || plan.rows.back() != row) {
      plan.rows.push_back(row);
      plan.row_begin.push_back(i);
    }
    const auto column = number[static_cast<std::size_t>(index[i] % plan.in)];
    plan.pairs[static_cast<std::size_t>(i)] =
        static_cast<std::uint32_t>(column) << kPairBits |
        static_cast<std::uint32_t>((plan.rows.size() - 1) % kPairRows);
  }
  plan.row_begin.push_back(k);
}

void mark_stretches(MaskPlan& plan) {
  const auto rows = plan.rows.size();
  const std::int64_t n = (plan.in + kStretch - 1) / kStretch;
  plan.stretches.assign(static_cast<std::size_t>(n) * rows, {0, 0});
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::int64_t i = plan.row_begin[r]; i < plan.row_begin[r + 1]; ++i) {
      const std::int32_t column =
          plan.columns[plan.pairs[static_cast<std::size_t>(i)] >> kPairBits];
      const auto stretch = static_cast<std::size_t>(column / kStretch);
      plan.stretches[stretch * rows + r].bits |= std::uint64_t{1}
                                                 << column % kStretch;
    }
    std::uint32_t before = 0;
    for (std::size_t s = 0; s < static_cast<std::size_t>(n); ++s) {
      MaskPlan::Stretch& stretch = plan.stretches[s * rows + r];
      stretch.before = before;
      before += static_cast<std::uint32_t>(std::popcount(stretch.bits));
    }
  }
}

template <class T>
std::int64_t bytes_of(const std::vector<T>& v) {
  return static_cast<std::int64_t>(v.capacity() * sizeof(T));
}

}  // namespace

std::string_view name_of(MaskPath path) noexcept {
  switch (path) {
    case MaskPath::kEmpty:
      return "empty";
    case MaskPath::kSampled:
      return "sampled";
    case MaskPath::kRows:
      return "rows";
    case MaskPath::kColumns:
      return "columns";
  }
  return "?";
}

std::int64_t MaskPlan::bytes() const {
  return bytes_of(rows) + bytes_of(columns) + bytes_of(row_begin) +
         bytes_of(pairs) + bytes_of(stretches);
}

MaskPlan make_mask_plan(const at::Tensor& index, std::int64_t out,
                        std::int64_t in, std::string_view name) {
  THINWIRE_ASSERT(
      index.dim() == 1 && index.is_contiguous() &&
          (index.scalar_type() == at::kInt || index.scalar_type() == at::kLong),
      "{}: index of {} dimensions of {}", name, index.dim(),
      c10::toString(index.scalar_type()));
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (out < 0 || in < 0 || out > kMost || in > kMost >> (kPairBits - 1)) {
    fail<UsageError>("{}: a weight of [{}, {}] is too wide for a mask", name,
                     out, in);
  }
  MaskPlan plan;
  plan.out = out;
  plan.in = in;
  plan.index = index;
  const std::int64_t k = index.numel();
  const auto build = [&](const auto* positions) {
    check_positions(positions, k, out, in, name);
    if (k > 0) lay_out(plan, positions, k);
  };
  if (index.scalar_type() == at::kInt) {
    build(index.const_data_ptr<std::int32_t>());
  } else {
    build(index.const_data_ptr<std::int64_t>());
  }
  const auto touched = static_cast<std::int64_t>(plan.rows.size());
  if (k > 0 && k * kDenseShare >= touched * in) mark_stretches(plan);
  plan.rows.shrink_to_fit();
  plan.columns.shrink_to_fit();
  plan.row_begin.shrink_to_fit();
  return plan;
}

MaskPath choose_mask_path(const MaskPlan& plan, std::int64_t rows,
                          const MaskCosts& costs) {
  if (plan.pairs.empty()) return MaskPath::kEmpty;
  const auto k = static_cast<double>(plan.size());
  const auto m = static_cast<double>(plan.rows.size());
  const auto n = static_cast<double>(plan.columns.size());
  const auto out = static_cast<double>(plan.out);
  const auto in = static_cast<double>(plan.in);
  const auto tokens = static_cast<double>(std::max<std::int64_t>(rows, 1));
  const double gather = costs.gathered_position * k / tokens;
  const double compress =
      plan.stretches.empty() ? gather : costs.compressed_position * k / tokens;
  // Panels hold rows by the 16.
  constexpr std::int64_t kLeast = kPanelLengths[2];
  const double padded =
      static_cast<double>((rows + kLeast - 1) / kLeast * kLeast) / tokens;
  const double sampled =
      costs.transposed_number * (m + n) + costs.sampled_position * k * padded;
  // Few lines are bound by reading the operand that stays as it is.
  const auto product = [&](double lines, double width) {
    return costs.transposed_number * lines +
           std::max(lines, costs.streamed_number) * width;
  };
  const double by_rows = product(m, in) + compress;
  const double by_columns = product(n, out) + gather;
  if (sampled <= std::min(by_rows, by_columns)) return MaskPath::kSampled;
  return by_rows <= by_columns ? MaskPath::kRows : MaskPath::kColumns;
}

MaskPath choose_device_mask_path(const MaskPlan& plan, std::int64_t rows,
                                 bool bf16, const DeviceMaskCosts& costs) {
  if (plan.pairs.empty()) return MaskPath::kEmpty;
  const auto tokens = static_cast<double>(std::max<std::int64_t>(rows, 1));
  const auto k = static_cast<double>(plan.size());
  const auto out = static_cast<double>(plan.out);
  const auto in = static_cast<double>(plan.in);
  const double bytes = bf16 ? 2 : 4;
  // Transposing both operands is a read and a write of each.
  const double sampled =
      (2 * k + 2 * (out + in)) * tokens * bytes / costs.cache_bytes_per_second;
  const double dense = 2 * out * in * tokens /
                       (bf16 ? costs.bf16_operations_per_second
                             : costs.fp32_operations_per_second);
  return sampled <= dense ? MaskPath::kSampled : MaskPath::kRows;
}

}  // namespace thinwire
