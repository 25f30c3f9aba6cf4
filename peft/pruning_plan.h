// What a method with changes beside frozen weights removes of these, and when,
// as its config says.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "peft/weight_pruning.h"

namespace thinwire {

class PruningPlan {
 public:
  // Reads prune_after, sparsity, other_sparsity, score, prune_heads and
  // prune_channels. Throws UsageError for values out of range, or that remove
  // nothing or contradict each other.
  PruningPlan(std::string_view method, const Config& config);

  // Steps after which it is time; none: never.
  std::optional<std::int64_t> after() const { return after_; }
  // Heads and channels go, no single numbers.
  bool removes_units() const { return heads_ > 0 || channels_ > 0; }

  // Linear layers of the blocks that lose numbers are the targets, by their
  // numbers, and all others.
  // What can be known before anything trains: throws UsageError where a matrix
  // trains by itself, a share is of none, or units cannot go.
  void check(const Backbone& backbone, std::span<const int> targets,
             const DeltaBuilder& builder) const;
  // Of the weights and changes as they are now. Throws UsageError as
  // remove_weights() and remove_units() do.
  Removed removed(const Backbone& backbone, std::span<const int> targets,
                  const std::function<SparseChange(const Site&)>& change_of,
                  std::uint64_t seed) const;

 private:
  std::vector<ChangedSite> layer_sites(const Backbone& backbone,
                                       std::span<const int> targets) const;
  struct Group {
    WeightPruning pruning;
    std::vector<ChangedSite> sites;
  };
  // Targets and others, where a share of them goes.
  std::vector<Group> groups(const std::vector<ChangedSite>& sites,
                            std::uint64_t seed) const;
  UnitPruning units() const { return {method_, heads_, channels_}; }

  std::string method_;
  std::optional<std::int64_t> after_;
  double sparsity_ = 0, other_sparsity_ = 0;
  PruneScore score_;
  std::int64_t heads_ = 0;
  double channels_ = 0;
};

}  // namespace thinwire
