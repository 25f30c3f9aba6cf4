// Intrinsic dimension: W = W_0 + unpack(P theta), P a fixed random projection,
// the D numbers theta train in place of the weights. The smallest D that
// reaches 90 % of full fine-tuning's metric is how many directions a task needs
// of these weights.
// Li et al. 2018, "Measuring the intrinsic dimension of objective landscapes",
// sec. 2; Aghajanyan, Gupta & Zettlemoyer 2021, "Intrinsic dimensionality
// explains the effectiveness of language model fine-tuning", sec. 3; of single
// sub-modules ("local"): He et al. 2023, "Parameter-efficient model adaptation
// for vision transformers", sec. 3. bench/intrinsic_dimension.py searches it.
// P is peft/fastfood.h's over the weights of all targets, a function of
// projection_seed: never stored. theta starts at 0, so step 0 equals the
// backbone. Under Adam a weight moves by about the learning rate a step, as it
// does where it trains itself.
// Shapes: theta [D], W [d_out, d_in].
#include <ATen/ops/zeros.h>

#include "base/error.h"
#include "peft/fastfood.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"dimension", FieldType::kInt, "100",
     "D, how many numbers train in place of the weights"},
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, all-linear, or one regular "
     "expression; default: query and value projections"},
    {"projection_seed", FieldType::kInt, "0", "of P"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kTheta[] = "intrinsic_dimension.theta";

std::int64_t weights(const Site& site) { return site.d_in * site.d_out; }

class ProjectedChange : public LinearAttachment {
 public:
  ProjectedChange(std::shared_ptr<const Fastfood> projection,
                  std::size_t tensor, at::Tensor theta, const Site& site)
      : projection_(std::move(projection)),
        tensor_(tensor),
        theta_(std::move(theta)),
        d_in_(site.d_in),
        d_out_(site.d_out) {}

  at::Tensor weight_change(const ForwardContext&) override {
    return (*projection_)(theta_, tensor_).view({d_out_, d_in_});
  }

 private:
  std::shared_ptr<const Fastfood> projection_;
  std::size_t tensor_;
  at::Tensor theta_;
  std::int64_t d_in_, d_out_;
};

class IntrinsicDimension : public Method {
 public:
  explicit IntrinsicDimension(Config config)
      : config_(std::move(config)),
        dimension_(config_.at("dimension").get<std::int64_t>()),
        targets_(string_list(config_.at("target_modules"))) {
    constexpr std::int64_t kMost = 1 << 20;
    if (dimension_ < 1 || dimension_ > kMost) {
      fail<UsageError>(
          "intrinsic_dimension: dimension must be in [1, {}], got {}", kMost,
          dimension_);
    }
  }

  std::string_view id() const override { return "intrinsic_dimension"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    std::int64_t all = 0;
    for (const int number : sites(backbone)) {
      all += weights(backbone.sites()[static_cast<std::size_t>(number)]);
    }
    if (dimension_ > all) {
      fail<UsageError>(
          "intrinsic_dimension: dimension {} is more than the {} weights of "
          "its targets; train these themselves (full), or lower it",
          dimension_, all);
    }
    declare_dense(builder, kTheta, at::zeros({dimension_}, at::kFloat));
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    const auto projection = project(backbone, delta);
    std::size_t tensor = 0;
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(
          number, std::make_shared<ProjectedChange>(projection, tensor++,
                                                    delta.leaf(kTheta), site));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    const auto projection = project(backbone, delta);
    std::size_t tensor = 0;
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const at::Tensor change =
          (*projection)(delta.leaf(kTheta).detach(), tensor++);
      own_weight(slots, backbone, site, id())
          .add_(change.view({site.d_out, site.d_in}));
    }
  }
  bool mergeable() const override { return true; }

 private:
  std::shared_ptr<const Fastfood> project(const Backbone& backbone,
                                          const Delta& delta) const {
    std::vector<std::int64_t> numbers;
    for (const int number : sites(backbone)) {
      numbers.push_back(
          weights(backbone.sites()[static_cast<std::size_t>(number)]));
    }
    return std::make_shared<Fastfood>(
        dimension_, numbers, config_.at("projection_seed").get<std::uint64_t>(),
        delta.leaf(kTheta).device());
  }

  std::vector<int> sites(const Backbone& backbone) const {
    return target_sites(backbone, targets_, id());
  }

  Config config_;
  std::int64_t dimension_;
  std::vector<std::string> targets_;
};

}  // namespace

const MethodInfo& intrinsic_dimension_method() {
  static const MethodInfo kInfo = {
      "intrinsic_dimension",
      "few numbers through a random projection (Li et al. 2018)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<IntrinsicDimension>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
