#include "dist/virtual_shards.h"

#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <bit>
#include <cstddef>

#include "base/error.h"

namespace thinwire {
namespace {

bool power_of_two(std::int64_t n) {
  return n > 0 && std::has_single_bit(static_cast<std::uint64_t>(n));
}

} // namespace

VirtualShards::VirtualShards(std::int64_t shards, std::int64_t global_batch,
                             int ranks)
    : count_(static_cast<int>(shards)), ranks_(ranks) {
  if (!power_of_two(shards)) {
    fail<UsageError>("train.virtual_shards: must be a power of two, got {}",
                     shards);
  }
  if (!power_of_two(ranks) || ranks > shards) {
    fail<UsageError>(
        "train.deterministic: {} ranks cannot share {} virtual shards evenly; "
        "start a power of two of ranks, at most {}, or set "
        "train.virtual_shards",
        ranks, shards, shards);
  }
  if (global_batch % shards != 0) {
    fail<UsageError>(
        "train.deterministic: the global batch of {} samples (data.batch_size "
        "x train.accumulation x {} ranks) is no multiple of {} virtual shards",
        global_batch, ranks, shards);
  }
  samples_ = global_batch / shards;
}

std::span<const Sample> VirtualShards::shard(std::span<const Sample> samples,
                                             int i) const {
  THINWIRE_ASSERT(std::ssize(samples) == samples_per_rank() && i >= 0 &&
                      i < per_rank(),
                  "shard {} of {} samples", i, samples.size());
  return samples.subspan(static_cast<std::size_t>(i * samples_),
                         static_cast<std::size_t>(samples_));
}

std::string VirtualShards::cost(std::int64_t numbers) const {
  const int levels = std::countr_zero(static_cast<unsigned>(per_rank()));
  return fmt::format(
      "deterministic: {} virtual shards of {} samples, {} on each rank one "
      "after the other; {} bytes of memory more, no bytes more on the wire, "
      "no exchange during backward",
      count_, samples_, per_rank(), levels * numbers * 4);
}

void TreeSum::add(int leaves, at::Tensor &grads, ShardSums &sums) {
  THINWIRE_ASSERT(power_of_two(leaves) && added_ < leaves, "leaf {} of {}",
                  added_, leaves);
  std::size_t level = 0;
  // The left neighbour of what has been summed waits; left + right.
  for (; ((added_ >> level) & 1) != 0; ++level) {
    const Level &left = levels_[level];
    grads.add_(left.grads);
    sums.loss = left.sums.loss + sums.loss;
    sums.weight = left.sums.weight + sums.weight;
  }
  if (++added_ == leaves) {
    reset();
    return;
  }
  if (level == levels_.size())
    levels_.emplace_back();
  Level &waits = levels_[level];
  if (!waits.grads.defined() || waits.grads.sizes() != grads.sizes()) {
    waits.grads = at::empty_like(grads);
  }
  waits.grads.copy_(grads);
  waits.sums = sums;
  grads.zero_();
  sums = {};
}

} // namespace thinwire
