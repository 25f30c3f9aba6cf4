// Magnitude mask: the k numbers of the model with the largest magnitude train,
// or those with the smallest, all others stay. The mask follows from the
// backbone alone. Sung, Nair & Raffel 2021, "Training neural networks with
// fixed sparse masks"; HF peft's supertuning trains the largest. With
// re-masking, the magnitudes are those that training has made of them.
#include "base/error.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"keep", FieldType::kString, "largest", "largest or smallest magnitudes"},
    mask_fields::kExclude,
    mask_fields::kCountHead,
    mask_fields::kTrainHead,
    mask_fields::kQuota,
    mask_fields::kWarmupSteps,
    mask_fields::kRemaskEvery,
    mask_fields::kRemaskUntil,
    mask_fields::kDensityStart,
};

Extreme parse_keep(const std::string& name) {
  if (name == "largest") return Extreme::kLargest;
  if (name == "smallest") return Extreme::kSmallest;
  fail<UsageError>("magnitude_mask: keep must be largest or smallest, got '{}'",
                   name);
}

class MagnitudeMask : public MaskedMethod {
 public:
  explicit MagnitudeMask(const Config& config)
      : MaskedMethod("magnitude_mask", "magnitude", config,
                     parse_keep(config.at("keep").get<std::string>())) {}

 protected:
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext&) override {
    return magnitudes(backbone, slots);
  }
};

}  // namespace

const MethodInfo& magnitude_mask_method() {
  static const MethodInfo kInfo = {
      "magnitude_mask",
      "the numbers with the largest or smallest magnitude (Sung et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<MagnitudeMask>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
