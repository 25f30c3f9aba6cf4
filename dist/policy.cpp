#include "dist/policy.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/tensor.h>
#include <fmt/format.h>

#include <span>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/buffers.h"
#include "dist/gradient.h"

namespace thinwire {
namespace {

constexpr const char* kResidual = "comm.residual";
constexpr std::size_t kTaskBits = 32 - Guard::kVotes;

std::uint32_t task_bit(std::size_t i) {
  return i < kTaskBits ? 1u << (Guard::kVotes + i) : 0;
}

}  // namespace

Policy::Policy(Setup setup) : s_(std::move(setup)), comm_(*s_.run.comm) {}

NamedTensors Policy::rank_state() const {
  at::Tensor& residual = s_.exchange.residual();
  if (!residual.defined()) return {};
  return {{kResidual, residual}};
}

void Policy::load(const NamedTensors&, const NamedTensors& own,
                  const std::string& where) {
  at::Tensor& residual = s_.exchange.residual();
  if (!residual.defined()) return;
  residual.copy_(find_state(own, kResidual, at::kFloat, residual.numel(), where,
                            "comm.codec and comm.error_feedback"));
}

void Policy::adopt(const NamedTensors& vectors) {
  at::Tensor& residual = s_.exchange.residual();
  for (const auto& [name, tensor] : vectors) {
    if (name == kResidual && residual.defined()) residual.copy_(tensor);
  }
}

std::uint32_t Policy::task_flags(
    const std::vector<std::int64_t>& samples) const {
  std::uint32_t flags = 0;
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (samples[i] > 0) flags |= task_bit(i);
  }
  return flags;
}

// The guard holds the first 24; more are counted in a call of their own.
std::vector<std::int32_t> Policy::tasks_present(
    const Guard& guard, const std::vector<std::int64_t>& samples) {
  std::vector<std::int32_t> present;
  for (std::size_t i = 0; i < s_.tasks.size() && i < kTaskBits; ++i) {
    if ((guard.flags & task_bit(i)) != 0) present.push_back(s_.tasks[i]);
  }
  if (s_.tasks.size() <= kTaskBits) return present;
  at::Tensor rest =
      at::tensor(at::ArrayRef<std::int64_t>(samples).slice(kTaskBits));
  comm_.all_reduce(rest, ReduceOp::kSum, {.tag = "tasks"});
  for (std::int64_t i = 0; i < rest.numel(); ++i) {
    if (rest.const_data_ptr<std::int64_t>()[i] == 0) continue;
    present.push_back(s_.tasks[kTaskBits + static_cast<std::size_t>(i)]);
  }
  return present;
}

double Policy::add_penalties(double weight) {
  double sum = 0;
  if (weight == 0) return sum;
  for (const auto& method : *s_.run.methods) {
    sum += method->add_penalty(s_.delta, weight);
  }
  return sum;
}

std::string Policy::name_culprits(const std::string& mine,
                                  std::string_view vector) {
  const auto all =
      comm_.all_gather_v(std::as_bytes(std::span(mine.data(), mine.size())),
                         {.tag = "non-finite"});
  std::string text;
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    const std::string name(reinterpret_cast<const char*>(all[r].data()),
                           all[r].size());
    text += fmt::format("{}{} on rank {}", text.empty() ? "" : ", ", name, r);
  }
  if (!text.empty()) return text;
  const std::string name = first_nonfinite(s_.delta);
  return name.empty()
             ? "the summed loss"
             : fmt::format("{} of '{}' summed over ranks", vector, name);
}

}  // namespace thinwire
