#include <cmath>
#include <cstdlib>
#include <string_view>

#include "base/unicode.h"
#include "tasks/ngrams.h"
#include "tasks/text_metrics.h"

namespace thinwire {
namespace {

void replace_all(std::string& text, std::string_view from,
                 std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos;
       at += to.size()) {
    text.replace(at, from.size(), to);
  }
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_stop(char c) { return c == '.' || c == ','; }

// White space at the end goes first: a line break there joins nothing.
std::string without_trailing_space(std::string_view text) {
  auto points = code_points(text);
  while (!points.empty() && is_space(points.back())) points.pop_back();
  std::string out;
  for (const std::uint32_t c : points) append_utf8(out, c);
  return out;
}

// ASCII punctuation but ' , - and the full stop.
bool is_symbol(char c) {
  return (c >= ' ' && c <= '/' && c != '\'' && c != '-' && !is_stop(c)) ||
         (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
         (c >= '{' && c <= '~');
}

// Each of the rules below takes two characters at a time where it applies, and
// looks on behind them. A character outside ASCII is several bytes, of which
// none is a digit or a stop.
template <class Applies>
std::string by_pairs(const std::string& in, const char* before,
                     const char* between, const char* after, Applies applies) {
  std::string out;
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (i + 1 < in.size() && applies(in[i], in[i + 1])) {
      out += before;
      out += in[i];
      out += between;
      out += in[++i];
      out += after;
    } else {
      out += in[i];
    }
  }
  return out;
}

}  // namespace

std::string tokenise_13a(std::string_view text) {
  std::string line(text);
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  replace_all(line, "&quot;", "\"");
  replace_all(line, "&amp;", "&");
  replace_all(line, "&lt;", "<");
  replace_all(line, "&gt;", ">");
  std::string spaced = " ";
  for (const char c : line) {
    if (is_symbol(c)) {
      ((spaced += ' ') += c) += ' ';
    } else {
      spaced += c;
    }
  }
  spaced += ' ';
  // Stops stand alone unless between digits; so does a dash behind a digit.
  spaced = by_pairs(spaced, "", " ", " ",
                    [](char a, char b) { return !is_digit(a) && is_stop(b); });
  spaced = by_pairs(spaced, " ", " ", "",
                    [](char a, char b) { return is_stop(a) && !is_digit(b); });
  spaced = by_pairs(spaced, "", " ", " ",
                    [](char a, char b) { return is_digit(a) && b == '-'; });
  std::string out;
  for (const std::string& token : split_words(spaced)) {
    if (!out.empty()) out += ' ';
    out += token;
  }
  return out;
}

BleuCounts& BleuCounts::operator+=(const BleuCounts& other) {
  length += other.length;
  reference_length += other.reference_length;
  for (std::size_t n = 0; n < matches.size(); ++n) {
    matches[n] += other.matches[n];
    total[n] += other.total[n];
  }
  return *this;
}

BleuCounts bleu_counts(const std::string& text,
                       std::span<const std::string> references) {
  const auto tokens_of = [](std::string_view line) {
    return split_words(tokenise_13a(without_trailing_space(line)));
  };
  const Tokens own = tokens_of(text);
  BleuCounts out;
  out.length = static_cast<double>(own.size());
  std::array<NgramCounts, 4> most;
  double closest = -1;
  for (const std::string& reference : references) {
    const Tokens other = tokens_of(reference);
    const auto length = static_cast<double>(other.size());
    const double gap = std::abs(length - out.length);
    if (closest < 0 || gap < closest ||
        (gap == closest && length < out.reference_length)) {
      closest = gap;
      out.reference_length = length;
    }
    for (std::size_t n = 0; n < most.size(); ++n) {
      for (const auto& [ngram, count] : count_ngrams(other, n + 1)) {
        auto& kept = most[n][ngram];
        kept = std::max(kept, count);
      }
    }
  }
  for (std::size_t n = 0; n < most.size(); ++n) {
    const NgramCounts counts = count_ngrams(own, n + 1);
    out.matches[n] = static_cast<double>(count_common(counts, most[n]));
    out.total[n] = own.size() > n ? static_cast<double>(own.size() - n) : 0.0;
  }
  return out;
}

double bleu(const BleuCounts& corpus) {
  if (corpus.matches[0] == 0) return 0;  // then longer ones match neither
  double smooth = 1, log_sum = 0;
  for (std::size_t n = 0; n < corpus.total.size(); ++n) {
    if (corpus.total[n] == 0) return 0;
    double matches = corpus.matches[n];
    if (matches == 0) matches = 1 / (smooth *= 2);
    log_sum += std::log(100 * matches / corpus.total[n]);
  }
  const double penalty =
      corpus.length < corpus.reference_length
          ? std::exp(1 - corpus.reference_length / corpus.length)
          : 1;
  return penalty * std::exp(log_sum / static_cast<double>(corpus.total.size()));
}

}  // namespace thinwire
