#include "peft/mask_selection.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "peft/delta_file.h"
#include "peft/kept_numbers.h"

namespace thinwire {
namespace {

// k positions evenly over all tensors.
std::vector<at::Tensor> spread(std::span<const std::int64_t> sizes,
                               std::int64_t k) {
  double all = 0;
  for (const std::int64_t n : sizes) all += static_cast<double>(n);
  const double stride = all / static_cast<double>(k);
  std::vector<at::Tensor> out;
  double begin = 0;    // of the tensor, among all numbers
  std::int64_t i = 0;  // position (i + 1/2) stride
  for (const std::int64_t n : sizes) {
    std::vector<std::int64_t> index;
    for (; i < k; ++i) {
      const double at = (static_cast<double>(i) + 0.5) * stride - begin;
      if (at >= static_cast<double>(n)) break;
      index.push_back(static_cast<std::int64_t>(at));
    }
    begin += static_cast<double>(n);
    out.push_back(at::tensor(index, n > INT32_MAX ? at::kLong : at::kInt));
  }
  return out;
}

// Calls one(t, k) for every tensor with its quota.
template <class F>
std::vector<at::Tensor> by_tensor(std::span<const std::int64_t> sizes,
                                  std::int64_t k, const F& one) {
  const std::vector<std::int64_t> quotas = shares_of(k, sizes);
  std::vector<at::Tensor> out;
  for (std::size_t t = 0; t < sizes.size(); ++t) {
    out.push_back(one(t, quotas[t]).front());
  }
  return out;
}

}  // namespace

Quota parse_quota(std::string_view method, std::string_view name) {
  if (name == "global") return Quota::kGlobal;
  if (name == "tensor") return Quota::kTensor;
  fail<UsageError>("{}: quota must be global or tensor, got '{}'", method,
                   name);
}

std::vector<at::Tensor> select_numbers(std::span<const at::Tensor> scores,
                                       std::int64_t k, Quota quota,
                                       Extreme keep) {
  if (quota == Quota::kGlobal) return top_k_indices(scores, k, keep);
  std::vector<std::int64_t> sizes;
  for (const at::Tensor& s : scores) sizes.push_back(s.numel());
  return by_tensor(sizes, k, [&](std::size_t t, std::int64_t own) {
    return top_k_indices(scores.subspan(t, 1), own, keep);
  });
}

std::vector<at::Tensor> spread_numbers(std::span<const std::int64_t> sizes,
                                       std::int64_t k, Quota quota) {
  if (quota == Quota::kGlobal) return spread(sizes, k);
  return by_tensor(sizes, k, [&](std::size_t t, std::int64_t own) {
    return spread(sizes.subspan(t, 1), own);
  });
}

std::vector<at::Tensor> deal_numbers(std::span<const at::Tensor> index,
                                     std::span<const at::Tensor> scores,
                                     int workers, Extreme keep) {
  struct Number {
    float score;
    std::int32_t* owner;
  };
  std::vector<Number> numbers;
  std::vector<at::Tensor> owners;
  for (std::size_t t = 0; t < index.size(); ++t) {
    const std::int64_t n = index[t].numel();
    owners.push_back(at::empty({n}, at::kInt));
    auto* owner = owners.back().mutable_data_ptr<std::int32_t>();
    const at::Tensor chosen =
        scores.empty() ? at::zeros({n}, at::kFloat)
                       : scores[t].reshape({-1}).index_select(0, index[t]);
    const auto* score = chosen.const_data_ptr<float>();
    for (std::int64_t i = 0; i < n; ++i) {
      numbers.push_back({score[i], owner + i});
    }
  }
  if (keep == Extreme::kLargest) {
    std::ranges::stable_sort(numbers, std::greater<>(), &Number::score);
  } else {
    std::ranges::stable_sort(numbers, std::less<>(), &Number::score);
  }
  std::int32_t next = 0;
  for (const Number& number : numbers) {
    *number.owner = next;
    next = (next + 1) % workers;
  }
  return owners;
}

std::vector<at::Tensor> read_mask(std::string_view method,
                                  const std::string& file,
                                  const Backbone& backbone,
                                  std::span<const int> slots, bool exact) {
  const DeltaFile saved = load_delta(file);
  const Parameters& p = backbone.parameters();
  if (exact) {
    if (const Digest here = p.identity(); saved.backbone != here) {
      fail<UsageError>(
          "{}: mask_file {} was drawn on backbone {}, this one is {}", method,
          file, saved.backbone.hex(), here.hex());
    }
  }
  std::vector<at::Tensor> out(slots.size(), at::arange(0, at::kInt));
  std::int64_t numbers = 0;
  for (const DeltaEntry& e : saved.delta.entries()) {
    if (e.kind != EntryKind::kMasked) continue;
    const int slot = p.find(e.target);
    const auto it = std::find(slots.begin(), slots.end(), slot);
    if (it == slots.end() ||
        p.slot(slot).frozen.sizes() != at::IntArrayRef(e.shape)) {
      fail<UsageError>(
          "{}: mask_file {} masks '{}' [{}], which this backbone lacks, or "
          "which is excluded",
          method, file, e.target, fmt::join(e.shape, ", "));
    }
    out[static_cast<std::size_t>(it - slots.begin())] = e.index;
    numbers += e.count;
  }
  if (numbers == 0) {
    fail<UsageError>("{}: mask_file {} holds no mask", method, file);
  }
  return out;
}

at::Tensor empty_numbers(const Backbone& backbone, std::span<const int> slots,
                         at::Device device) {
  std::int64_t n = 0;
  for (const int slot : slots) {
    n += backbone.parameters().slot(slot).frozen.numel();
  }
  return at::empty({n}, at::TensorOptions(device).dtype(at::kFloat));
}

std::vector<at::Tensor> by_slot(const at::Tensor& numbers,
                                const Backbone& backbone,
                                std::span<const int> slots) {
  std::vector<at::Tensor> out;
  std::int64_t begin = 0;
  for (const int slot : slots) {
    const std::int64_t n = backbone.parameters().slot(slot).frozen.numel();
    out.push_back(numbers.narrow(0, begin, n));
    begin += n;
  }
  return out;
}

std::vector<at::Tensor> initial_numbers(const Backbone& backbone,
                                        std::span<const int> slots) {
  auto out = by_slot(empty_numbers(backbone, slots), backbone, slots);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    out[i].copy_(backbone.parameters().initial(slots[i]).view({-1}));
  }
  return out;
}

std::vector<at::Tensor> magnitudes(const Backbone& backbone,
                                   std::span<const int> slots) {
  std::vector<at::Tensor> out = initial_numbers(backbone, slots);
  for (at::Tensor& numbers : out) numbers.abs_();
  return out;
}

}  // namespace thinwire
