#include "peft/pruning_plan.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "models/parameters.h"

namespace thinwire {
namespace {

double share_of(std::string_view method, const Config& config,
                const char* field, double otherwise) {
  const Config& given = config.at(field);
  const double value = given.is_null() ? otherwise : given.get<double>();
  if (!(value >= 0 && value < 1)) {
    fail<UsageError>("{}: {} is the share that is removed, in [0, 1), got {}",
                     method, field, value);
  }
  return value;
}

}  // namespace

PruningPlan::PruningPlan(std::string_view method, const Config& config)
    : method_(method),
      score_(parse_prune_score(method, config.at("score").get<std::string>())),
      heads_(config.at("prune_heads").get<std::int64_t>()),
      channels_(share_of(method, config, "prune_channels", 0)) {
  const auto not_negative = [&](const char* field, std::int64_t value) {
    if (value >= 0) return;
    fail<UsageError>("{}: {} must be at least 0, got {}", method, field, value);
  };
  not_negative("prune_heads", heads_);
  if (!config.at("prune_after").is_null()) {
    after_ = config.at("prune_after").get<std::int64_t>();
    not_negative("prune_after", *after_);
  }
  const double usual = removes_units() ? 0 : 0.2;
  sparsity_ = share_of(method, config, "sparsity", usual);
  other_sparsity_ = share_of(method, config, "other_sparsity", usual);
  const bool numbers = sparsity_ > 0 || other_sparsity_ > 0;
  if (removes_units() && numbers) {
    fail<UsageError>(
        "{}: prune_heads and prune_channels remove whole units, sparsity and "
        "other_sparsity single numbers; set one pair to 0",
        method);
  }
  if (after_ && !removes_units() && !numbers) {
    fail<UsageError>(
        "{}: prune_after {} removes nothing: sparsity, other_sparsity, "
        "prune_heads and prune_channels are all 0",
        method, *after_);
  }
}

std::vector<ChangedSite> PruningPlan::layer_sites(
    const Backbone& backbone, std::span<const int> targets) const {
  std::vector<ChangedSite> out;
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    const Site& site = backbone.sites()[i];
    if (site.kind != SiteKind::kLinear || site.layer < 0) continue;
    const bool target =
        std::ranges::find(targets, static_cast<int>(i)) != targets.end();
    out.push_back({.site = &site, .changed = target, .change = {}});
  }
  return out;
}

std::vector<PruningPlan::Group> PruningPlan::groups(
    const std::vector<ChangedSite>& sites, std::uint64_t seed) const {
  std::vector<Group> out;
  const auto add = [&](const char* field, double sparsity,
                       const PruneScore& score, bool changed) {
    if (sparsity == 0) return;
    out.push_back({{.method = method_,
                    .field = field,
                    .sparsity = sparsity,
                    .score = score,
                    .seed = seed},
                   {}});
    std::ranges::copy_if(
        sites, std::back_inserter(out.back().sites),
        [&](const ChangedSite& s) { return s.changed == changed; });
  };
  add("sparsity", sparsity_, score_, true);
  add("other_sparsity", other_sparsity_, {PruneScore::Of::kWeight}, false);
  return out;
}

void PruningPlan::check(const Backbone& backbone, std::span<const int> targets,
                        const DeltaBuilder& builder) const {
  const std::vector<ChangedSite> sites = layer_sites(backbone, targets);
  for (const ChangedSite& s : sites) {
    const std::string& name = backbone.parameters().slot(s.site->weight).name;
    if (!builder.trains(name)) continue;
    fail<UsageError>(
        "{}: '{}' trains, so nothing of it can be pruned; leave it frozen, or "
        "prune_after unset",
        method_, name);
  }
  for (const Group& g : groups(sites, 0)) check_weights(g.sites, g.pruning);
  check_units(backbone, sites, units());
}

Removed PruningPlan::removed(
    const Backbone& backbone, std::span<const int> targets,
    const std::function<SparseChange(const Site&)>& change_of,
    std::uint64_t seed) const {
  std::vector<ChangedSite> sites = layer_sites(backbone, targets);
  for (ChangedSite& s : sites) {
    if (s.changed) s.change = change_of(*s.site);
  }
  Removed out;
  for (const Group& g : groups(sites, seed)) {
    remove_weights(backbone, g.sites, g.pruning, out);
  }
  remove_units(backbone, sites, units(), out);
  return out;
}

}  // namespace thinwire
