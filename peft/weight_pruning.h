// Which numbers of frozen matrices are removed once a change beside some of
// them has trained: one by one, over all matrices of a group, or whole
// attention heads and feed-forward channels.
// Chen et al. 2023, "DSEE: Dually sparsity-embedded efficient tuning of
// pre-trained language models", sec. 3.3. A matrix counts for what its change
// is, since that is what the task asked for; others for their own magnitude.
// Everything here is a function of its arguments, the same on every rank.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "peft/method.h"
#include "peft/sparse_change.h"

namespace thinwire {

// A linear layer, and the change beside it.
struct ChangedSite {
  const Site* site;
  bool changed = false;
  SparseChange change;  // where it is changed; checks ask for none
};

// What the magnitude is of that decides; with the reference code's name. The
// smallest go; of an inverse score, the largest.
struct PruneScore {
  enum class Of {
    kUpdate,      // s (U V + S): ABS
    kLowRank,     // s U V: AB
    kSum,         // W + s (U V + S): WABS
    kSumLowRank,  // W + s U V: WAB
    kWeight,      // W
    kRandom       // a counter's output
  } of = Of::kUpdate;
  bool inverse = false;  // of kUpdate and kLowRank: NABS and NAB
};
// Throws UsageError in the method's name.
PruneScore parse_prune_score(std::string_view method, std::string_view name);

// Removed numbers by tensor: bool, as the tensor lies, in the CPU's memory.
using Removed = std::map<std::string, at::Tensor>;

struct WeightPruning {
  std::string_view method;  // for messages
  std::string_view field;   // likewise: the one that says `sparsity`
  double sparsity = 0;      // removed share of the group's numbers, in [0, 1)
  PruneScore score;
  std::uint64_t seed = 1;
};
// How many go: floor(sparsity * n) of the n numbers of the sites' weights.
// Throws UsageError where that is none.
std::int64_t check_weights(const std::vector<ChangedSite>& sites,
                           const WeightPruning& options);
// Adds them to `removed`, equal ones by position. A site without a change
// counts for its weight. Throws UsageError where every score is zero, or
// nothing would be left of a matrix.
void remove_weights(const Backbone& backbone,
                    const std::vector<ChangedSite>& sites,
                    const WeightPruning& options, Removed& removed);

struct UnitPruning {
  std::string_view method;
  std::int64_t heads = 0;  // removed of each attention
  double channels = 0;     // share removed of each feed-forward, in [0, 1)
};
// Throws UsageError where nothing would be left, or nothing goes, no projection
// of an attention is changed, or what reads heads or channels is.
void check_units(const Backbone& backbone,
                 const std::vector<ChangedSite>& sites,
                 const UnitPruning& options);
// Adds rows (and biases) of the heads and channels with the smallest scores,
// and the columns that read them. A head's score is the sum of |change| over
// its rows in all projections that have one; in T5, whose layers add the same
// bias to a head's scores, the same heads of a stack's self-attentions are
// removed, by the sum over its layers. A channel's is the sum of |W + change|
// over its rows. Throws UsageError as check_units() does, and where the changes
// of an attention are zero.
void remove_units(const Backbone& backbone,
                  const std::vector<ChangedSite>& sites,
                  const UnitPruning& options, Removed& removed);

}  // namespace thinwire
