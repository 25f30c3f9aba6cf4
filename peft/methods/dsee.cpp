// DSEE: y = (W . S1) x + b + s (U V + S2) x. The frozen W loses the numbers
// that S1 says; U V is of rank r, S2 has N_s numbers at places fixed before
// training. Chen et al. 2023, "DSEE: Dually sparsity-embedded efficient tuning
// of pre-trained language models", sec. 3; scale s = alpha / r.
// S2 stands where W itself is least like a matrix of low rank (the paper's), at
// random, or at W's largest numbers, and begins at 0, as U does; V begins
// normal with standard deviation 0.02. So step 0 equals the backbone.
// Three phases: U, V and S2 train; after prune_after steps S1 is drawn once, by
// what the change is, and they train on over W . S1. S1 holds for W alone, so
// that W . S1 + s (U V + S2), which merge writes, is sparse only in matrices
// that have no change; with mask_update it holds for the change too, from then
// on, in every pass and in what is merged. Rows of heads and channels that are
// removed whole are removed of a merged change in any case: nothing reads them.
// Differs: the reference keeps S2 as a dense matrix under a mask and prunes as
// torch.nn.utils.prune does, which rounds a share where this rounds it down;
// channels go by magnitude, in place of coefficients of their own. The split
// ends at a rank of 96 by default, the reference's at 496, which takes ten
// times as long.
// Entry names: MODULE.dsee_U [d_out, r], MODULE.dsee_V [r, d_in],
// MODULE.dsee_S [N_s], whose places are the constant MODULE.dsee_S.index.
#include <ATen/ops/zeros.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "models/parameters.h"
#include "peft/kept_numbers.h"
#include "peft/low_rank_path.h"
#include "peft/mask_selection.h"
#include "peft/method_tools.h"
#include "peft/number_scores.h"
#include "peft/pruned_weights.h"
#include "peft/pruning_plan.h"
#include "peft/robust_split.h"
#include "peft/sparse_change.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"r", FieldType::kInt, "16", "rank of U V"},
    {"alpha", FieldType::kFloat, "32", "scale s = alpha / r"},
    {"sparse", FieldType::kInt, "16", "N_s, numbers of S2 in each matrix"},
    {"support", FieldType::kString, "split",
     "where S2 stands: split (beside a low-rank part of W), random, or "
     "magnitude (of W)"},
    {"split_rounds", FieldType::kInt, "20",
     "of the split, each with a rank of five more; the reference's: 100"},
    {"dropout", FieldType::kFloat, "0", "on the input of V only"},
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, all-linear, or one regular "
     "expression; default: query and value projections, GPT-2's c_attn"},
    {"prune_after", FieldType::kInt, "~",
     "steps after which W is pruned, once; default: it never is"},
    {"sparsity", FieldType::kFloat, "~",
     "share removed of the targets' W; default 0.2, or 0 where heads or "
     "channels go"},
    {"other_sparsity", FieldType::kFloat, "~",
     "likewise, of the layers' other matrices, by magnitude"},
    {"score", FieldType::kString, "update",
     "of the targets, magnitude of: update (s (U V + S2)), low_rank (s U V), "
     "sum and sum_low_rank (with W), weight (W), inverse_update, "
     "inverse_low_rank, or random"},
    {"prune_heads", FieldType::kInt, "0", "heads removed of each attention"},
    {"prune_channels", FieldType::kFloat, "0",
     "share removed of each feed-forward's channels"},
    {"mask_update", FieldType::kBool, "false",
     "S1 holds for s (U V + S2) too, so that merged weights are sparse"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

enum class Support { kSplit, kRandom, kMagnitude };

Support parse_support(const std::string& name) {
  if (name == "split") return Support::kSplit;
  if (name == "random") return Support::kRandom;
  if (name == "magnitude") return Support::kMagnitude;
  fail<UsageError>("dsee: support must be split, random or magnitude, got '{}'",
                   name);
}

std::string entry_name(const Site& site, char part) {
  return fmt::format("{}.dsee_{}", site.name, part);
}
std::string places_name(const Site& site) {
  return entry_name(site, 'S') + ".index";
}

class Dsee : public Method {
 public:
  explicit Dsee(Config config)
      : config_(std::move(config)),
        r_(integer("r", 1, 65536)),
        sparse_(integer("sparse", 0, INT32_MAX)),
        rounds_(integer("split_rounds", 1, 1'000'000)),
        alpha_(config_.at("alpha").get<double>()),
        dropout_(checked_dropout(config_.at("dropout").get<double>(), "dsee")),
        support_(parse_support(config_.at("support").get<std::string>())),
        targets_(string_list(config_.at("target_modules"))),
        plan_("dsee", config_),
        mask_update_(config_.at("mask_update").get<bool>()) {
    if (!(alpha_ > 0) || !std::isfinite(alpha_)) {
      fail<UsageError>("dsee: alpha must be positive, got {}", alpha_);
    }
    if (mask_update_ && dropout_ > 0) {
      fail<UsageError>(
          "dsee: mask_update adds U V to the weight, where nothing reads an "
          "input of its own; set dropout to 0, got {}",
          dropout_);
    }
  }

  std::string_view id() const override { return "dsee"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    declare_changes(builder, backbone, context);
    if (plan_.after()) {
      plan_.check(backbone, sites(backbone), builder);
      // Counting asks for no weights.
      if (context.step >= *plan_.after() && context.scoring != nullptr) {
        declare_pruned(builder, backbone, context);
      }
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = site_of(backbone, number);
      const SparseChange c = change(delta, site);
      if (const auto mask = mask_of(backbone, delta, site, mask_update_)) {
        backbone.attach(number, std::make_shared<MaskedChange>(c, *mask));
        continue;
      }
      backbone.attach(
          number, std::make_shared<LowRankPath>(c.v, c.u, c.scale, dropout_,
                                                site.name + ".dsee_dropout"));
      if (!c.values.defined()) continue;
      backbone.attach(number, std::make_shared<SparsePath>(c));
    }
  }

  std::optional<std::int64_t> next_boundary(std::int64_t step) const override {
    if (plan_.after() && step < *plan_.after()) return plan_.after();
    return std::nullopt;
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const int number : sites(backbone)) {
      const Site& site = site_of(backbone, number);
      at::Tensor whole = change(delta, site).whole().detach();
      if (const auto mask = mask_of(backbone, delta, site,
                                    mask_update_ || plan_.removes_units())) {
        whole = whole.masked_fill(*mask, 0);
      }
      own_weight(slots, backbone, site, id()).add_(whole);
    }
  }
  bool mergeable() const override { return true; }

 private:
  std::int64_t integer(const char* field, std::int64_t low,
                       std::int64_t high) const {
    const auto value = config_.at(field).get<std::int64_t>();
    if (value < low) {
      fail<UsageError>("dsee: {} must be at least {}, got {}", field, low,
                       value);
    }
    if (value > high) {
      fail<UsageError>("dsee: {} must be at most {}, got {}", field, high,
                       value);
    }
    return value;
  }

  static const Site& site_of(const Backbone& backbone, int number) {
    return backbone.sites()[static_cast<std::size_t>(number)];
  }
  std::vector<int> sites(const Backbone& backbone) const {
    return target_sites(backbone, targets_, id());
  }

  void declare_changes(DeltaBuilder& builder, const Backbone& backbone,
                       const DeclareContext& context) const {
    const std::vector<int> targets = sites(backbone);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      const Site& site = site_of(backbone, targets[i]);
      const std::string v = entry_name(site, 'V');
      declare_dense(builder, v,
                    normal_values(v, {r_, site.d_in}, 0.02, context.seed));
      declare_dense(builder, entry_name(site, 'U'),
                    at::zeros({site.d_out, r_}, at::kFloat));
      if (sparse_ == 0) continue;
      declare_dense(builder, entry_name(site, 'S'),
                    at::zeros({sparse_}, at::kFloat));
      builder.constant(places_name(site), places(backbone, site, context));
      if (context.scoring == nullptr) continue;
      context.scoring->progress("placing sparse numbers",
                                static_cast<std::int64_t>(i) + 1,
                                std::ssize(targets));
    }
  }

  // Drawn once: boundaries leave S2 where it is.
  at::Tensor places(const Backbone& backbone, const Site& site,
                    const DeclareContext& context) const {
    const std::int64_t all = site.d_in * site.d_out;
    if (sparse_ > all) {
      fail<UsageError>(
          "dsee: sparse {} asks for more than the {} numbers of {}", sparse_,
          all, site.name);
    }
    if (context.current != nullptr) {
      const auto& known = context.current->constants();
      const auto it = known.find(places_name(site));
      if (it != known.end()) return it->second;
    }
    if (context.scoring == nullptr) {  // only counts are wanted
      return spread_numbers(std::vector{all}, sparse_, Quota::kGlobal).front();
    }
    std::vector scores{
        support_scores(backbone, site, context.seed).to(at::kFloat)};
    // Rounds of the split make much of little, such as the order of a sum.
    if (support_ == Support::kSplit) context.scoring->sum_over_ranks(scores);
    return keep_largest(scores, sparse_).front();
  }

  // [d_out, d_in], in the CPU's memory: where S2 should stand.
  at::Tensor support_scores(const Backbone& backbone, const Site& site,
                            std::uint64_t seed) const {
    const Parameters& p = backbone.parameters();
    const at::Tensor weight =
        out_in(p.initial(site.weight), p.slot(site.weight).axes);
    switch (support_) {
      case Support::kRandom:
        return random_scores(entry_name(site, 'S'), weight.sizes(), seed);
      case Support::kMagnitude:
        return weight.cpu().to(at::kFloat).abs().contiguous();
      case Support::kSplit:
        return beside_low_rank(weight, sparse_, rounds_, seed);
    }
    return {};
  }

  void declare_pruned(DeltaBuilder& builder, const Backbone& backbone,
                      const DeclareContext& context) const {
    if (context.current != nullptr) {
      const auto known = pruned_bits(context.current->constants());
      for (const auto& [target, bits] : known) {
        builder.constant(pruned_constant(target), bits);
      }
      if (!known.empty()) return;  // drawn once
    }
    Delta begins;
    if (context.current == nullptr) {
      DeltaBuilder own;
      declare_changes(own, backbone, context);
      begins = own.build();
    }
    const Delta& now = context.current == nullptr ? begins : *context.current;
    const Removed removed = plan_.removed(
        backbone, sites(backbone),
        [&](const Site& site) { return change(now, site); }, context.seed);
    for (const auto& [target, mask] : removed) {
      builder.constant(pruned_constant(target), pack_bits(mask));
    }
  }

  SparseChange change(const Delta& delta, const Site& site) const {
    SparseChange c{.u = delta.leaf(entry_name(site, 'U')),
                   .v = delta.leaf(entry_name(site, 'V')),
                   .scale = alpha_ / static_cast<double>(r_)};
    if (sparse_ == 0) return c;
    c.values = delta.leaf(entry_name(site, 'S'));
    const auto places = delta.constants().find(places_name(site));
    const auto lie = [&](const at::Tensor& t) {
      return t.scalar_type() == at::kInt && t.sizes() == c.values.sizes() &&
             t.min().item<std::int64_t>() >= 0 &&
             t.max().item<std::int64_t>() < site.d_in * site.d_out;
    };
    if (places == delta.constants().end() || !lie(places->second)) {
      fail<UsageError>(
          "dsee: the delta does not say where in {} the {} numbers of {} stand",
          site.name, sparse_, entry_name(site, 'S'));
    }
    c.places = places->second;
    return c;
  }

  // What S1 removes of a target, bool [d_out, d_in]; none: nothing, or its
  // change is not to be masked.
  static std::optional<at::Tensor> mask_of(const Backbone& backbone,
                                           const Delta& delta, const Site& site,
                                           bool of_change) {
    const Parameters::Slot& slot = backbone.parameters().slot(site.weight);
    const auto& constants = delta.constants();
    const auto bits = constants.find(pruned_constant(slot.name));
    if (!of_change || bits == constants.end()) return std::nullopt;
    return out_in(unpack_bits(bits->second, slot.frozen.sizes(), slot.name),
                  slot.axes);
  }

  Config config_;
  std::int64_t r_, sparse_, rounds_;
  double alpha_, dropout_;
  Support support_;
  std::vector<std::string> targets_;
  PruningPlan plan_;
  bool mask_update_;
};

}  // namespace

const MethodInfo& dsee_method() {
  static const MethodInfo kInfo = {
      "dsee",
      "low-rank and sparse changes of weights that are pruned (Chen et al. "
      "2023)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Dsee>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
