#include "tasks/decoding.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/random.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"max_new_tokens", FieldType::kInt, "128",
     "longest text to generate, tokens"},
    {"min_new_tokens", FieldType::kInt, "0",
     "the text does not end before, tokens"},
    {"num_beams", FieldType::kInt, "1", "beam search over so many; 1: none"},
    {"length_penalty", FieldType::kFloat, "1",
     "beams: log-probability / length^this; above 0 favours long texts"},
    {"early_stopping", FieldType::kString, "false",
     "beams: true | false | never, as HF's"},
    {"no_repeat_ngram_size", FieldType::kInt, "0",
     "no so many tokens come twice in a text; 0: they may"},
    {"do_sample", FieldType::kBool, "false",
     "draw tokens instead of taking the likeliest"},
    {"temperature", FieldType::kFloat, "1", "do_sample: divides the logits"},
    {"top_k", FieldType::kInt, "50",
     "do_sample: from so many likeliest; 0: all"},
    {"top_p", FieldType::kFloat, "1",
     "do_sample: from the fewest tokens that hold this probability"},
    {"sample_seed", FieldType::kInt, "1", "do_sample: of what is drawn"},
};

void require(bool right, const TaskConfig& config, const char* key,
             const char* what) {
  if (right) return;
  fail<UsageError>("task.{} is {}; it must be {}", key, config.at(key).dump(),
                   what);
}

}  // namespace

std::span<const Field> decoding_fields() { return kFields; }

Decoding read_decoding(const TaskConfig& config) {
  Decoding how;
  config.at("max_new_tokens").get_to(how.max_new_tokens);
  config.at("min_new_tokens").get_to(how.min_new_tokens);
  config.at("num_beams").get_to(how.num_beams);
  config.at("length_penalty").get_to(how.length_penalty);
  config.at("no_repeat_ngram_size").get_to(how.no_repeat_ngram_size);
  config.at("do_sample").get_to(how.do_sample);
  config.at("temperature").get_to(how.temperature);
  config.at("top_k").get_to(how.top_k);
  config.at("top_p").get_to(how.top_p);
  config.at("sample_seed").get_to(how.sample_seed);
  require(how.max_new_tokens >= 1, config, "max_new_tokens", "at least 1");
  require(how.min_new_tokens >= 0 && how.min_new_tokens <= how.max_new_tokens,
          config, "min_new_tokens", "from 0 to max_new_tokens");
  require(how.num_beams >= 1, config, "num_beams", "at least 1");
  require(std::isfinite(how.length_penalty), config, "length_penalty",
          "a finite number");
  require(how.no_repeat_ngram_size >= 0, config, "no_repeat_ngram_size",
          "at least 0");
  require(how.temperature > 0 && std::isfinite(how.temperature), config,
          "temperature", "above 0 (the likeliest token: do_sample: false)");
  require(how.top_k >= 0, config, "top_k", "at least 0");
  require(how.top_p > 0 && how.top_p <= 1, config, "top_p", "in (0, 1]");
  require(!how.do_sample || how.num_beams == 1, config, "num_beams",
          "1 with do_sample: beams are not drawn");
  const auto stop = config.at("early_stopping").get<std::string>();
  require(stop == "false" || stop == "true" || stop == "never", config,
          "early_stopping", "true, false or never");
  if (stop == "true") how.early_stopping = Decoding::EarlyStopping::kYes;
  if (stop == "never") how.early_stopping = Decoding::EarlyStopping::kNever;
  return how;
}

void forbid_tokens(std::span<float> logits,
                   std::span<const std::int64_t> tokens, std::int64_t written,
                   const ModelConfig& model, const Decoding& how) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  const auto n = static_cast<std::size_t>(how.no_repeat_ngram_size);
  if (n > 0 && tokens.size() + 1 >= n) {
    const auto last = tokens.last(n - 1);
    for (std::size_t i = 0; i + n <= tokens.size(); ++i) {
      if (std::ranges::equal(tokens.subspan(i, n - 1), last)) {
        logits[static_cast<std::size_t>(tokens[i + n - 1])] = kNever;
      }
    }
  }
  if (model.eos_id >= 0 && written < how.min_new_tokens) {
    logits[static_cast<std::size_t>(model.eos_id)] = kNever;
  }
  const auto force = [&](std::int64_t token) {
    if (token < 0) return;
    std::ranges::fill(logits, kNever);
    logits[static_cast<std::size_t>(token)] = 0;
  };
  if (tokens.size() == 1) force(model.forced_bos_id);
  if (written + 1 == how.max_new_tokens) force(model.forced_eos_id);
}

std::int64_t likeliest(std::span<const float> logits) {
  return std::ranges::max_element(logits) - logits.begin();
}

std::vector<Choice> choices(std::span<const float> logits,
                            const Decoding& how) {
  // Scaled logits, likeliest first as far as `sorted`.
  std::vector<Choice> out;
  out.reserve(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    out.push_back({static_cast<std::int64_t>(i),
                   static_cast<double>(logits[i]) / how.temperature});
  }
  const auto likelier = [](const Choice& a, const Choice& b) {
    return a.probability != b.probability ? a.probability > b.probability
                                          : a.token < b.token;
  };
  const auto k = static_cast<std::size_t>(how.top_k);
  if (k > 0 && k < out.size()) {
    const auto kth = out.begin() + static_cast<std::ptrdiff_t>(k) - 1;
    std::nth_element(out.begin(), kth, out.end(), likelier);
    const double least = kth->probability;
    std::erase_if(out, [&](const Choice& c) { return c.probability < least; });
  }
  const double most =
      std::ranges::max_element(out, {}, &Choice::probability)->probability;
  double sum = 0;
  for (Choice& c : out) sum += c.probability = std::exp(c.probability - most);
  if (how.top_p < 1) {
    // Few tokens hold most of the probability: no need to sort them all.
    std::size_t sorted = 0, kept = 0;
    for (double before = 0; kept < out.size() && before < how.top_p * sum;
         ++kept) {
      if (kept == sorted) {
        const std::size_t next = std::min(out.size(), 4 * sorted + 64);
        std::partial_sort(out.begin() + static_cast<std::ptrdiff_t>(sorted),
                          out.begin() + static_cast<std::ptrdiff_t>(next),
                          out.end(), likelier);
        sorted = next;
      }
      before += out[kept].probability;
    }
    out.resize(kept);
  }
  std::erase_if(out, [](const Choice& c) { return c.probability == 0; });
  sum = 0;
  for (const Choice& c : out) sum += c.probability;
  for (Choice& c : out) c.probability /= sum;
  std::ranges::sort(out, {}, &Choice::token);
  return out;
}

std::int64_t draw_token(std::span<const float> logits, std::uint64_t sample,
                        std::int64_t written, const Decoding& how) {
  const PhiloxBlock block =
      philox(make_key(how.sample_seed, Purpose::kGenerate),
             {static_cast<std::uint32_t>(written), 0,
              static_cast<std::uint32_t>(sample),
              static_cast<std::uint32_t>(sample >> 32)});
  double left = uniform01(block[0]);
  const std::vector<Choice> from = choices(logits, how);
  for (const Choice& c : from) {
    left -= c.probability;
    if (left < 0) return c.token;
  }
  return from.back().token;  // the sum is 1 up to rounding
}

}  // namespace thinwire
