#include "base/unicode.h"

#include <algorithm>
#include <iterator>

namespace thinwire {
namespace {

// first, first + step, … last become themselves + difference.
struct LowerRun {
  std::uint32_t first, last, step;
  std::int32_t difference;
};
struct Range {
  std::uint32_t first, last;
};

#include "base/unicode_tables.inc"

constexpr std::uint32_t kNoCharacter = 0xFFFD;
constexpr std::uint32_t kSigma = 0x3A3, kFinalSigma = 0x3C2;
constexpr std::uint32_t kDottedI = 0x130, kDotAbove = 0x307;

// The last entry that begins at or before c, or null.
template <class Entry, std::size_t N>
const Entry* entry_of(const Entry (&table)[N], std::uint32_t c) {
  const Entry* next = std::upper_bound(
      std::begin(table), std::end(table), c,
      [](std::uint32_t x, const Entry& entry) { return x < entry.first; });
  return next == std::begin(table) ? nullptr : next - 1;
}

template <std::size_t N>
bool contains(const Range (&ranges)[N], std::uint32_t c) {
  const Range* range = entry_of(ranges, c);
  return range != nullptr && c <= range->last;
}

// Unicode's Final_Sigma: behind a cased character and not before one, what has
// no say in it (accents, apostrophes) left aside.
bool is_final(const std::vector<std::uint32_t>& text, std::size_t sigma) {
  std::size_t i = sigma;
  while (i > 0 && contains(kIgnored, text[i - 1])) --i;
  if (i == 0 || !contains(kCased, text[i - 1])) return false;
  i = sigma + 1;
  while (i < text.size() && contains(kIgnored, text[i])) ++i;
  return i == text.size() || !contains(kCased, text[i]);
}

std::uint32_t lower(std::uint32_t c) {
  const LowerRun* run = entry_of(kLower, c);
  if (run == nullptr || c > run->last || (c - run->first) % run->step != 0) {
    return c;
  }
  return static_cast<std::uint32_t>(static_cast<std::int32_t>(c) +
                                    run->difference);
}

}  // namespace

std::vector<std::uint32_t> code_points(std::string_view text) {
  std::vector<std::uint32_t> out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t n = lead < 0x80   ? 1
                          : lead < 0xC0 ? 0
                          : lead < 0xE0 ? 2
                          : lead < 0xF0 ? 3
                                        : 4;
    if (n == 0 || i + n > text.size()) {
      out.push_back(kNoCharacter);
      ++i;
      continue;
    }
    std::uint32_t c = n == 1 ? lead : lead & (0x7Fu >> n);
    for (std::size_t k = 1; k < n; ++k) {
      c = c << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    }
    out.push_back(c);
    i += n;
  }
  return out;
}

void append_utf8(std::string& out, std::uint32_t c) {
  const auto rest = [&](int bits) {
    return static_cast<char>(0x80u | ((c >> bits) & 0x3Fu));
  };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0u | (c >> 6));
    out += rest(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0u | (c >> 12));
    out += rest(6);
    out += rest(0);
  } else {
    out += static_cast<char>(0xF0u | (c >> 18));
    out += rest(12);
    out += rest(6);
    out += rest(0);
  }
}

std::string lower_case(std::string_view text) {
  const auto in = code_points(text);
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < in.size(); ++i) {
    if (in[i] == kDottedI) {
      out += 'i';
      append_utf8(out, kDotAbove);
      continue;
    }
    append_utf8(
        out, in[i] == kSigma && is_final(in, i) ? kFinalSigma : lower(in[i]));
  }
  return out;
}

std::vector<std::string> split_words(std::string_view text) {
  std::vector<std::string> out;
  bool inside = false;
  for (const std::uint32_t c : code_points(text)) {
    if (is_space(c)) {
      inside = false;
      continue;
    }
    if (!inside) out.emplace_back();
    inside = true;
    append_utf8(out.back(), c);
  }
  return out;
}

bool is_word(std::uint32_t code_point) { return contains(kWord, code_point); }

bool is_space(std::uint32_t code_point) { return contains(kSpace, code_point); }

}  // namespace thinwire
