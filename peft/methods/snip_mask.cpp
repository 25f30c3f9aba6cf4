// SNIP mask: the k numbers of the model with the largest connection sensitivity
// |w g| train, all others stay; g is the gradient of the loss in w. Lee,
// Ajanthan & Torr 2019, "SNIP: Single-shot network pruning based on connection
// sensitivity", sec. 4. Differs: what the paper keeps and trains, in a network
// of random weights, is what trains here, in a trained one, and the rest is not
// removed; the loss is the mean over `samples` examples in evaluation mode
// rather than over one batch (the sum, which orders numbers alike); scores are
// not divided by their sum. With re-masking, w and g are those of then.
//
// Gradients of all batches add up in what becomes the scores, so that these are
// the only fp32 numbers beside the weights.
#include "peft/fisher.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"samples", FieldType::kInt, "1024",
     "training examples that score the mask, over all ranks"},
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

class SnipMask : public MaskedMethod {
 public:
  explicit SnipMask(const Config& config)
      : MaskedMethod("snip_mask", "snip", config),
        samples_(config.at("samples").get<std::int64_t>()) {
    at_least("samples", samples_, 1);
  }

 protected:
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext& context) override {
    std::vector<at::Tensor> scores =
        summed_gradients(backbone, slots, *context.scoring, samples_);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const at::Tensor weight = backbone.parameters().initial(slots[i]);
      scores[i].mul_(weight.to(at::kCPU, at::kFloat)).abs_();
    }
    return scores;
  }

 private:
  std::int64_t samples_;
};

}  // namespace

const MethodInfo& snip_mask_method() {
  static const MethodInfo kInfo = {
      "snip_mask",
      "the numbers with the largest connection sensitivity (Lee et al. 2019)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<SnipMask>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
