#include <algorithm>
#include <cctype>

#include "base/unicode.h"
#include "tasks/ngrams.h"
#include "tasks/text_metrics.h"

namespace thinwire {
namespace {

bool is_article(std::string_view word) {
  return word == "a" || word == "an" || word == "the";
}

// Words as the official script compares them.
Tokens normalised(const std::string& text) {
  std::string kept;
  for (const char c : lower_case(text)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || std::ispunct(byte) == 0) kept += c;
  }
  // An article is a run of letters, numbers and underscores of its own,
  // whatever else stands beside it; a space takes its place.
  std::string out, word;
  const auto flush = [&] {
    out += is_article(word) ? " " : word;
    word.clear();
  };
  for (const std::uint32_t c : code_points(kept)) {
    if (is_word(c)) {
      append_utf8(word, c);
    } else {
      flush();
      append_utf8(out, c);
    }
  }
  flush();
  return split_words(out);
}

}  // namespace

Squad squad(const std::string& text, std::span<const std::string> references) {
  const Tokens own = normalised(text);
  const NgramCounts counts = count_ngrams(own, 1);
  Squad best;
  for (const std::string& reference : references) {
    const Tokens other = normalised(reference);
    const double equal = own == other ? 1 : 0;
    const double f1 = own.empty() || other.empty()
                          ? equal
                          : f1_of(static_cast<double>(count_common(
                                      counts, count_ngrams(other, 1))),
                                  static_cast<double>(own.size()),
                                  static_cast<double>(other.size()));
    best.exact_match = std::max(best.exact_match, equal);
    best.f1 = std::max(best.f1, f1);
  }
  return best;
}

}  // namespace thinwire
