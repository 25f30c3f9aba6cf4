// Which of the backbone's own numbers a mask holds: sorted positions in each of
// some tensors, chosen by scores, spread evenly, or read from a file.
// Everything here is a function of its arguments, the same on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ops/top_k.h"
#include "peft/method.h"

namespace thinwire {

// Over what the numbers compete: all tensors at once, or each tensor has its
// share of them by its size (shares_of()).
enum class Quota { kGlobal, kTensor };
// Throws UsageError in the method's name.
Quota parse_quota(std::string_view method, std::string_view name);

// The sorted positions in each tensor of k numbers, int32 (int64 in tensors of
// 2^31 numbers or more), by scores as top_k_indices() takes them; ties go to
// the lower position.
std::vector<at::Tensor> select_numbers(std::span<const at::Tensor> scores,
                                       std::int64_t k, Quota quota,
                                       Extreme keep);

// The same for counting alone: k positions evenly over tensors of these sizes,
// so that a step with them costs about what one with a mask does.
std::vector<at::Tensor> spread_numbers(std::span<const std::int64_t> sizes,
                                       std::int64_t k, Quota quota);

// Deals chosen numbers out: by score (none: equal ones), the best first, equal
// ones by position, the i-th goes to worker i mod workers. int32, beside each
// index.
std::vector<at::Tensor> deal_numbers(std::span<const at::Tensor> index,
                                     std::span<const at::Tensor> scores,
                                     int workers, Extreme keep);

// The mask of a delta file for these slots; those it does not mask have none.
// Throws UsageError in the method's name when the file has no mask or one that
// does not fit, and, if `exact`, when it is of another backbone.
std::vector<at::Tensor> read_mask(std::string_view method,
                                  const std::string& file,
                                  const Backbone& backbone,
                                  std::span<const int> slots, bool exact);

// As many fp32 numbers as the slots have, uninitialised, and views of such ones
// slot by slot, flat. One block: the allocator would round each of hundreds up,
// which comes to several per cent.
at::Tensor empty_numbers(const Backbone& backbone, std::span<const int> slots,
                         at::Device device = at::kCPU);
std::vector<at::Tensor> by_slot(const at::Tensor& numbers,
                                const Backbone& backbone,
                                std::span<const int> slots);

// Copies of the slots' numbers as training would begin from them, fp32 in the
// CPU's memory, flat, in one block; their magnitudes.
std::vector<at::Tensor> initial_numbers(const Backbone& backbone,
                                        std::span<const int> slots);
std::vector<at::Tensor> magnitudes(const Backbone& backbone,
                                   std::span<const int> slots);

}  // namespace thinwire
