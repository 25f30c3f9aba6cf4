#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/weight_pruning.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "base/nearest.h"
#include "models/parameters.h"
#include "ops/top_k.h"
#include "peft/kept_numbers.h"
#include "peft/number_scores.h"

namespace thinwire {
namespace {

using Of = PruneScore::Of;

struct NamedScore {
  std::string_view name;
  PruneScore score;
};
constexpr NamedScore kScores[] = {
    {"update", {Of::kUpdate}},
    {"low_rank", {Of::kLowRank}},
    {"sum", {Of::kSum}},
    {"sum_low_rank", {Of::kSumLowRank}},
    {"weight", {Of::kWeight}},
    {"inverse_update", {Of::kUpdate, true}},
    {"inverse_low_rank", {Of::kLowRank, true}},
    {"random", {Of::kRandom}},
};

std::string_view name_of(const PruneScore& score) {
  for (const NamedScore& s : kScores) {
    if (s.score.of == score.of && s.score.inverse == score.inverse) {
      return s.name;
    }
  }
  return "";
}

// fp32 [d_out, d_in] on the CPU.
at::Tensor score_of(const Parameters& p, const ChangedSite& s, Of of,
                    std::uint64_t seed) {
  const Parameters::Slot& slot = p.slot(s.site->weight);
  if (of == Of::kRandom) {
    return random_scores(slot.name, {s.site->d_out, s.site->d_in}, seed);
  }
  const bool sparse = of == Of::kUpdate || of == Of::kSum;
  const at::Tensor change =
      s.changed ? s.change.whole(sparse).cpu() : at::Tensor();
  if (s.changed && (of == Of::kUpdate || of == Of::kLowRank)) {
    return change.abs();
  }
  const at::Tensor weight =
      out_in(p.initial(s.site->weight), slot.axes).cpu().to(at::kFloat);
  if (s.changed && of != Of::kWeight) return weight.add(change).abs();
  return weight.abs();
}

}  // namespace

PruneScore parse_prune_score(std::string_view method, std::string_view name) {
  std::vector<std::string> names;
  for (const NamedScore& s : kScores) {
    if (s.name == name) return s.score;
    names.emplace_back(s.name);
  }
  fail<UsageError>("{}: score '{}' is unknown; choose one of: {}", method, name,
                   list_nearest_first(std::string(name), names));
}

std::int64_t check_weights(const std::vector<ChangedSite>& sites,
                           const WeightPruning& options) {
  if (sites.empty()) {
    fail<UsageError>(
        "{}: {} {} is of no matrix: no layer has one of that kind; set it to 0",
        options.method, options.field, options.sparsity);
  }
  std::int64_t all = 0;
  for (const ChangedSite& s : sites) all += s.site->d_in * s.site->d_out;
  const std::int64_t k = exact_share(options.sparsity, all);
  if (k == 0) {
    fail<UsageError>(
        "{}: {} {} of {} numbers is none; raise it, or set it to 0",
        options.method, options.field, options.sparsity, all);
  }
  return k;
}

void remove_weights(const Backbone& backbone,
                    const std::vector<ChangedSite>& sites,
                    const WeightPruning& options, Removed& removed) {
  const at::NoGradGuard no_grad;
  const Parameters& p = backbone.parameters();
  const std::int64_t k = check_weights(sites, options);
  std::vector<at::Tensor> scores;
  bool zero = true;
  for (const ChangedSite& s : sites) {
    const WeightAxes axes = p.slot(s.site->weight).axes;
    scores.push_back(
        out_in(score_of(p, s, options.score.of, options.seed), axes)
            .contiguous());
    zero = zero && !scores.back().ne(0).any().item<bool>();
  }
  if (zero) {
    fail<UsageError>(
        "{}: score {} is 0 for every number, as a change that has not trained "
        "is; prune later, or by weight",
        options.method, name_of(options.score));
  }
  const std::vector<at::Tensor> gone = top_k_indices(
      scores, k,
      options.score.inverse ? Extreme::kLargest : Extreme::kSmallest);
  scores.clear();
  for (std::size_t i = 0; i < sites.size(); ++i) {
    const Parameters::Slot& slot = p.slot(sites[i].site->weight);
    if (gone[i].numel() == slot.frozen.numel()) {
      fail<UsageError>(
          "{}: {} {} by score {} removes all of '{}'; lower it or choose "
          "another score",
          options.method, options.field, options.sparsity,
          name_of(options.score), slot.name);
    }
    if (gone[i].numel() == 0) continue;
    at::Tensor mask = at::zeros(slot.frozen.sizes(), at::kBool);
    mask.view({-1}).index_fill_(0, gone[i].to(at::kLong), true);
    removed[slot.name] = mask;
  }
}

}  // namespace thinwire
