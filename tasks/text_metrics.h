// How alike a written text and its references are, by the definitions of the
// packages whose figures papers report. Texts are UTF-8; a text has one
// reference or more. Internal to tasks/.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace thinwire {

// Lin 2004, "ROUGE: a package for automatic evaluation of summaries", as the
// package rouge-score has it: F1 of n-grams and of the longest common
// subsequence over [a-z0-9]+ of the lower-cased text; the best of several
// references, for each figure its own. stem: words of more than three letters
// by their stem (use_stemmer there). In [0, 1].
struct Rouge {
  double rouge1 = 0, rouge2 = 0, rouge_l = 0;
};
Rouge rouge(const std::string& text, std::span<const std::string> references,
            bool stem = false);

// Papineni et al. 2002, "BLEU: a method for automatic evaluation of machine
// translation", as sacrebleu has it by default: up to 4-grams of the 13a
// tokens, case matters, each n-gram counted as often as the reference that has
// it most, the closest reference length. A corpus's score is taken of the sums
// of its texts' counts.
struct BleuCounts {
  double length = 0, reference_length = 0;  // tokens
  std::array<double, 4> matches{}, total{};

  BleuCounts& operator+=(const BleuCounts& other);
};
BleuCounts bleu_counts(const std::string& text,
                       std::span<const std::string> references);
// Exponential smoothing: the k-th order without a match counts 1 / 2^k. In
// [0, 100].
double bleu(const BleuCounts& corpus);
// Tokens joined by a space.
std::string tokenise_13a(std::string_view text);

// Rajpurkar et al. 2016, "SQuAD: 100,000+ questions for machine comprehension
// of text", sec. 6.1, with the official script's normalisation: lower case,
// without ASCII punctuation and the words a, an, the. The best of several
// references, for each figure its own. Where either has no word left, F1 is
// exact_match, as in the script of version 2.0. In [0, 1]; the script prints
// percent.
struct Squad {
  double exact_match = 0, f1 = 0;
};
Squad squad(const std::string& text, std::span<const std::string> references);

}  // namespace thinwire
