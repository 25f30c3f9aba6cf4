// `deterministic: true`: the same bits for every number of ranks at one global
// batch. The global batch of a step is cut into V virtual shards by global
// order. A shard is one micro-batch, so its padding, packing and kernels depend
// on it alone; its gradient, loss and weight are a leaf of one binary tree, and
// sums are made in the order of that tree:
//
//   V = 8:  ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7))
//
// A rank owns V / P shards that follow each other, which is a subtree, and adds
// them as they come (TreeSum). The levels above are the exchange: recursive
// halving adds consecutive ranks first, slice by slice at the slice's owner
// (comm/schedule.h, halving_doubling), so the tree goes on across ranks and no
// byte more is sent than without it. V and P must be powers of two.
//
// Costs: smaller micro-batches, log2(V / P) vectors of k numbers, no overlap of
// the exchange with backward, one thread per rank unless train.threads says
// otherwise (sums over tensors and matrix products are cut by threads), and
// methods that score examples score all of them on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "comm/algorithm.h"
#include "data/sample.h"

namespace thinwire {

class VirtualShards {
public:
  // Of the exchange: the one that goes on with the tree.
  static constexpr Algorithm kAlgorithm = Algorithm::kHalvingDoubling;

  // Throws UsageError (key, value, what would be right) unless batch, shards
  // and ranks fit together.
  VirtualShards(std::int64_t shards, std::int64_t global_batch, int ranks);

  int count() const { return count_; }
  int per_rank() const { return count_ / ranks_; }
  std::int64_t samples() const { return samples_; } // of one shard
  // Of all shards of one rank: what its loader hands out per step.
  std::int64_t samples_per_rank() const { return samples_ * per_rank(); }
  // Shard i of this rank's samples of a step.
  std::span<const Sample> shard(std::span<const Sample> samples, int i) const;

  // One line on what it costs: bytes of memory, micro-batches.
  std::string cost(std::int64_t numbers) const;

private:
  int count_ = 0, ranks_ = 0;
  std::int64_t samples_ = 0;
};

// What rides with a gradient.
struct ShardSums {
  double loss = 0, weight = 0;
};

// Adds leaves in the order of a binary tree, as they come from left to right.
class TreeSum {
public:
  // The next of `leaves` leaves, a power of two, is in `grads` [k] and `sums`.
  // After the last one they hold the sum of all; after the others zeros.
  void add(int leaves, at::Tensor &grads, ShardSums &sums);
  void reset() { added_ = 0; }

private:
  struct Level {
    at::Tensor grads;
    ShardSums sums;
  };
  int added_ = 0;
  std::vector<Level> levels_; // sums of 2^i leaves that wait for their right
};

} // namespace thinwire
