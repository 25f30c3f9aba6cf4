// How text is chosen from a model's distributions over the next token. Names
// and defaults are those of HF's generate(); of a model's own generation_config
// only the tokens that it forces act. Internal to tasks/.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/field.h"
#include "tasks/task.h"

namespace thinwire {

struct Decoding {
  // Beams: when to stop looking. kNo: when no running beam can beat the worst
  // finished one at its present length; kYes: when as many have finished as
  // there are beams; kNever: when none could at any length.
  enum class EarlyStopping { kNo, kYes, kNever };

  std::int64_t max_new_tokens = 128;      // the end-of-text token included
  std::int64_t min_new_tokens = 0;        // before it
  std::int64_t no_repeat_ngram_size = 0;  // 0: may repeat
  std::int64_t num_beams = 1;
  double length_penalty = 1;  // score = log-probability / length^penalty
  EarlyStopping early_stopping = EarlyStopping::kNo;
  bool do_sample = false;
  double temperature = 1;
  std::int64_t top_k = 50;  // 0: all
  double top_p = 1;
  std::uint64_t sample_seed = 1;
};

// Fields of every task that writes text, and what they say. Throws UsageError.
std::span<const Field> decoding_fields();
Decoding read_decoding(const TaskConfig& config);

// Sets to -inf what may not come next: logits [V] of a sequence that has
// `tokens` so far, `written` of them new. A token that the model forces is left
// alone, with a logit of 0; as with HF that goes before everything else.
void forbid_tokens(std::span<float> logits,
                   std::span<const std::int64_t> tokens, std::int64_t written,
                   const ModelConfig& model, const Decoding& how);

// The likeliest token, the lowest of equals.
std::int64_t likeliest(std::span<const float> logits);

// What sampling draws from: temperature, then the top_k likeliest (and their
// equals), then the fewest of those that hold top_p of the probability.
// Holtzman et al. 2020, "The curious case of neural text degeneration", sec.
// 3.1. In order of token; probabilities sum to 1.
struct Choice {
  std::int64_t token;
  double probability;
};
std::vector<Choice> choices(std::span<const float> logits, const Decoding& how);
// A function of (seed, sample, written) and the logits alone.
std::int64_t draw_token(std::span<const float> logits, std::uint64_t sample,
                        std::int64_t written, const Decoding& how);

}  // namespace thinwire
