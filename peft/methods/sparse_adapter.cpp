// SparseAdapter: of the matrices of an adapter a share is removed before it
// trains (set to 0 for good); biases stay whole.
// He, Ding, Dong, Zhang & Tao 2022, "SparseAdapter: An easy approach for
// improving the parameter-efficiency of adapters", sec. 3. Large-Sparse (sec.
// 3.3) is a wider bottleneck at a lower density: as many numbers are kept.
// Scores as the reference code has them, and the paper's er; exactly
// floor(density * n) of n numbers are kept, equal scores by position, where the
// code drops all that tie. Its key `sparsity` is a density; here each is what
// its name says. Differs: the code can prune in rounds, and does so in one by
// default.
#include <cmath>

#include "base/error.h"
#include "peft/inner_mask.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"adapter", FieldType::kMethod, R"({"method": "houlsby"})",
     "the method whose matrices are pruned, {method: ID, its fields}"},
    {"density", FieldType::kFloat, "~",
     "share of their numbers that is kept and trains; default 0.2"},
    {"sparsity", FieldType::kFloat, "~", "instead: the share that is removed"},
    {"score", FieldType::kString, "snip",
     "what is kept: random, magnitude, er (random, quotas by Erdős–Rényi), "
     "snip or grasp"},
    {"quota", FieldType::kString, "global",
     "global: the best of all matrices; tensor: of each, as its size"},
    {"samples", FieldType::kInt, "1024",
     "training examples that snip and grasp score, over all ranks"},
    {"warmup_steps", FieldType::kInt, "0",
     "steps in which all of the adapter trains, before it is pruned"},
};

constexpr ScoreKind kScores[] = {ScoreKind::kRandom, ScoreKind::kMagnitude,
                                 ScoreKind::kErdosRenyi, ScoreKind::kSnip,
                                 ScoreKind::kGrasp};

double kept_share(const Config& config) {
  const Config& density = config.at("density");
  const Config& sparsity = config.at("sparsity");
  if (sparsity.is_null()) {
    return density.is_null() ? 0.2 : density.get<double>();
  }
  const double removed = sparsity.get<double>();
  if (!(removed >= 0 && removed < 1)) {
    fail<UsageError>("sparse_adapter: sparsity must be in [0, 1), got {}",
                     removed);
  }
  if (!density.is_null() &&
      std::fabs(density.get<double>() + removed - 1) > 1e-9) {
    fail<UsageError>(
        "sparse_adapter: density {} keeps a share and sparsity {} removes one; "
        "together they must be 1, so give one of them",
        density.get<double>(), removed);
  }
  return 1 - removed;
}

std::unique_ptr<Method> make(const Config& config) {
  const ScoreKind score = parse_score(
      "sparse_adapter", config.at("score").get<std::string>(), kScores);
  return make_inner_mask(
      {.id = "sparse_adapter",
       .config = config,
       .inner = config.at("adapter"),
       .density = kept_share(config),
       .score = score,
       .quota =
           parse_quota("sparse_adapter", config.at("quota").get<std::string>()),
       .rest = DeltaBuilder::Rest::kZero,
       .samples = config.at("samples").get<std::int64_t>(),
       .warmup_steps = config.at("warmup_steps").get<std::int64_t>()});
}

}  // namespace

const MethodInfo& sparse_adapter_method() {
  static const MethodInfo kInfo = {
      "sparse_adapter", "adapters pruned before they train (He et al. 2022)",
      kFields, &make};
  return kInfo;
}

}  // namespace thinwire
