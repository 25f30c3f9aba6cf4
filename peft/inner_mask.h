// A mask over the numbers of another method: of the matrices that an adapter,
// LoRA … declares, the numbers with the largest scores train, the others rest;
// vectors train whole. The method inside does not know: it reads whole tensors
// (DeltaBuilder::masked). The mask is drawn once, after a warm-up in which all
// of them train, and is the same on every rank.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "peft/mask_selection.h"
#include "peft/method.h"
#include "peft/number_scores.h"

namespace thinwire {

struct InnerMask {
  std::string_view id;  // of the method, for messages
  Config config;        // as it goes into the delta
  Config inner;         // {"method": ID, fields…}
  double density = 1;   // kept share of the matrices' numbers, in (0, 1]
  ScoreKind score = ScoreKind::kRandom;
  Quota quota = Quota::kGlobal;
  DeltaBuilder::Rest rest = DeltaBuilder::Rest::kZero;
  std::int64_t samples = 1;  // scored, over all ranks
  Scoring::Labels labels = Scoring::Labels::kData;
  std::int64_t warmup_steps = 0;
};

// One of `known`, by its name. Throws UsageError naming them.
ScoreKind parse_score(std::string_view method, std::string_view name,
                      std::span<const ScoreKind> known);

// Throws UsageError for values out of range.
std::unique_ptr<Method> make_inner_mask(InnerMask options);

}  // namespace thinwire
