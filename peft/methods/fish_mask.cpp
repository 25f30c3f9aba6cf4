// FISH mask: the k numbers of the model with the largest Fisher information
// train, all others stay; the support is fixed once and the same everywhere.
// Sung, Nair & Raffel 2021, "Training neural networks with fixed sparse
// masks", sec. 3: a global top-k over everything but the task head, which
// trains whole and counts inside k (peft/masked_method.h).
// Differs: the head may be left out of the budget; tensors may be excluded, or
// have a quota each; a saved mask may be used; weight decay acts on the mask
// alone (the reference code decays numbers outside it too); only the k numbers
// and their optimizer state are ever stored. Warm-up and re-masking: sec. 4.2
// of the paper.
#include "base/error.h"
#include "peft/fisher.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"samples", FieldType::kInt, "1024",
     "training examples that score the mask, over all ranks"},
    {"fisher", FieldType::kString, "empirical",
     "empirical: the data's labels; true: the model's own, weighted by their "
     "probability"},
    mask_fields::kExclude,
    mask_fields::kCountHead,
    mask_fields::kTrainHead,
    mask_fields::kMaskFile,
    mask_fields::kWarmupSteps,
    mask_fields::kRemaskEvery,
    mask_fields::kRemaskUntil,
    mask_fields::kDensityStart,
    mask_fields::kQuota,
};

class FishMask : public MaskedMethod {
 public:
  explicit FishMask(const Config& config)
      : MaskedMethod("fish_mask", "fish", config),
        samples_(config.at("samples").get<std::int64_t>()) {
    const std::string fisher = config.at("fisher").get<std::string>();
    if (fisher != "empirical" && fisher != "true") {
      fail<UsageError>("fish_mask: fisher must be empirical or true, got '{}'",
                       fisher);
    }
    if (fisher == "true") labels_ = Scoring::Labels::kModel;
    at_least("samples", samples_, 1);
  }

 protected:
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext& context) override {
    return fisher_scores(backbone, slots, *context.scoring, samples_, labels_);
  }

 private:
  std::int64_t samples_;
  Scoring::Labels labels_ = Scoring::Labels::kData;
};

}  // namespace

const MethodInfo& fish_mask_method() {
  static const MethodInfo kInfo = {
      "fish_mask",
      "the numbers with the largest Fisher information (Sung et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<FishMask>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
