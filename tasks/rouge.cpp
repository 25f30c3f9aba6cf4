#include <algorithm>

#include "base/unicode.h"
#include "tasks/ngrams.h"
#include "tasks/porter.h"
#include "tasks/text_metrics.h"

namespace thinwire {
namespace {

Tokens tokens_of(const std::string& text, bool stem) {
  Tokens out;
  bool inside = false;
  for (const char c : lower_case(text)) {
    const bool kept = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (kept && !inside) out.emplace_back();
    if (kept) out.back() += c;
    inside = kept;
  }
  if (stem) {
    for (std::string& token : out) {
      if (token.size() > 3) token = porter_stem(token);
    }
  }
  return out;
}

std::size_t longest_common_subsequence(const Tokens& a, const Tokens& b) {
  // above[j]: of the rows so far and the first j of b.
  std::vector<std::size_t> above(b.size() + 1), row(b.size() + 1);
  for (const std::string& token : a) {
    for (std::size_t j = 0; j < b.size(); ++j) {
      row[j + 1] =
          token == b[j] ? above[j] + 1 : std::max(row[j], above[j + 1]);
    }
    std::swap(above, row);
  }
  return above.back();
}

double f1_of_ngrams(const Tokens& text, const Tokens& reference,
                    std::size_t n) {
  const auto grams = [n](const Tokens& tokens) {
    return tokens.size() < n ? 0.0 : static_cast<double>(tokens.size() - n + 1);
  };
  return f1_of(static_cast<double>(count_common(count_ngrams(text, n),
                                                count_ngrams(reference, n))),
               grams(text), grams(reference));
}

}  // namespace

Rouge rouge(const std::string& text, std::span<const std::string> references,
            bool stem) {
  const Tokens own = tokens_of(text, stem);
  Rouge best;
  for (const std::string& reference : references) {
    const Tokens other = tokens_of(reference, stem);
    best.rouge1 = std::max(best.rouge1, f1_of_ngrams(own, other, 1));
    best.rouge2 = std::max(best.rouge2, f1_of_ngrams(own, other, 2));
    best.rouge_l = std::max(
        best.rouge_l,
        f1_of(static_cast<double>(longest_common_subsequence(own, other)),
              static_cast<double>(own.size()),
              static_cast<double>(other.size())));
  }
  return best;
}

}  // namespace thinwire
