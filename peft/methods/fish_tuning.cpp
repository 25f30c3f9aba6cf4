// FISH-Tuning: a FISH mask inside the matrices that another method adds; the
// numbers with the largest Fisher information train, the others stay as they
// are. Xue, Dong, Tu & He 2025, "FISH-Tuning: Enhancing PEFT methods with
// Fisher information", sec. 3. Vectors (biases of adapters) train whole.
// At its start one of LoRA's factors is 0 and the other has no gradient: a mask
// that is to see both wants warmup_steps, in which all numbers train.
#include "base/error.h"
#include "peft/inner_mask.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"adapter", FieldType::kMethod, R"({"method": "lora"})",
     "the method whose matrices are masked, {method: ID, its fields}"},
    {"density", FieldType::kFloat, "0.5", "share of their numbers that trains"},
    {"samples", FieldType::kInt, "256",
     "training examples that score the mask, one by one, over all ranks"},
    {"fisher", FieldType::kString, "empirical",
     "empirical: the data's labels; true: the model's own, weighted by their "
     "probability"},
    {"warmup_steps", FieldType::kInt, "0",
     "steps in which all numbers train, before the mask is drawn"},
};

std::unique_ptr<Method> make(const Config& config) {
  const std::string fisher = config.at("fisher").get<std::string>();
  if (fisher != "empirical" && fisher != "true") {
    fail<UsageError>("fish_tuning: fisher must be empirical or true, got '{}'",
                     fisher);
  }
  return make_inner_mask(
      {.id = "fish_tuning",
       .config = config,
       .inner = config.at("adapter"),
       .density = config.at("density").get<double>(),
       .score = ScoreKind::kFisher,
       .rest = DeltaBuilder::Rest::kAsItBegins,
       .samples = config.at("samples").get<std::int64_t>(),
       .labels =
           fisher == "true" ? Scoring::Labels::kModel : Scoring::Labels::kData,
       .warmup_steps = config.at("warmup_steps").get<std::int64_t>()});
}

}  // namespace

const MethodInfo& fish_tuning_method() {
  static const MethodInfo kInfo = {
      "fish_tuning", "a FISH mask inside LoRA or an adapter (Xue et al. 2025)",
      kFields, &make};
  return kInfo;
}

}  // namespace thinwire
