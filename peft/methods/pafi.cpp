// PaFi: the k numbers of the model with the smallest magnitude train, all
// others stay; no data is asked, so that all tasks and all clients have the
// same mask. Liao, Meng & Monz 2023, "Parameter-efficient fine-tuning without
// introducing new latency", sec. 3.1. Differs: whether embeddings and norms
// compete is a choice. There is no warm-up and no re-masking, by which tasks
// would come to differ; magnitude_mask has both.
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"embeddings", FieldType::kBool, "true", "embeddings may train"},
    {"norms", FieldType::kBool, "true", "layer norms may train"},
    mask_fields::kExclude,
    mask_fields::kCountHead,
    mask_fields::kTrainHead,
    mask_fields::kQuota,
};

class Pafi : public MaskedMethod {
 public:
  explicit Pafi(const Config& config)
      : MaskedMethod("pafi", "pafi", config, Extreme::kSmallest),
        embeddings_(config.at("embeddings").get<bool>()),
        norms_(config.at("norms").get<bool>()) {}

 protected:
  bool competes(const Parameters::Slot& slot) const override {
    return (embeddings_ || !is_embedding(slot.name)) &&
           (norms_ || !is_layer_norm(slot.name));
  }
  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext&) override {
    return magnitudes(backbone, slots);
  }

 private:
  bool embeddings_, norms_;
};

}  // namespace

const MethodInfo& pafi_method() {
  static const MethodInfo kInfo = {
      "pafi",
      "the numbers with the smallest magnitude, for all tasks (Liao et al. "
      "2023)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Pafi>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
