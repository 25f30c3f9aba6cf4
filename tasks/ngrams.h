// Counts of n-grams of tokens. Internal to tasks/.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace thinwire {

using Tokens = std::vector<std::string>;
using NgramCounts = std::map<Tokens, std::int64_t>;

inline NgramCounts count_ngrams(const Tokens& tokens, std::size_t n) {
  NgramCounts out;
  for (std::size_t i = 0; i + n <= tokens.size(); ++i) {
    const auto begin = tokens.begin() + static_cast<std::ptrdiff_t>(i);
    ++out[Tokens(begin, begin + static_cast<std::ptrdiff_t>(n))];
  }
  return out;
}

// How many of one are in the other, each as often as in both.
inline std::int64_t count_common(const NgramCounts& a, const NgramCounts& b) {
  std::int64_t out = 0;
  for (const auto& [ngram, count] : a) {
    const auto found = b.find(ngram);
    if (found != b.end()) out += std::min(count, found->second);
  }
  return out;
}

// The harmonic mean of precision and recall; 0 without a match.
inline double f1_of(double matches, double predicted, double there) {
  if (matches == 0) return 0;
  const double precision = matches / predicted, recall = matches / there;
  return 2 * precision * recall / (precision + recall);
}

}  // namespace thinwire
