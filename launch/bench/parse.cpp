#include "launch/bench/parse.h"

#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::int64_t kLargest = std::int64_t{1} << 40;

std::int64_t parse_size(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, code] =
      std::from_chars(text.data(), text.data() + text.size(), value);
  std::string_view unit(
      end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = 0;
  if (unit == "K") shift = 10;
  if (unit == "M") shift = 20;
  if (unit == "G") shift = 30;
  const bool bad = code != std::errc() || (shift == 0 && !unit.empty()) ||
                   value < 1 || value > (kLargest >> shift);
  if (bad || ((value << shift) % 4) != 0) {
    fail<UsageError>(
        "--sizes: '{}' is no size; give bytes, a multiple of 4, as 4, 64K or "
        "16M",
        text);
  }
  return value << shift;
}

}  // namespace

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t comma = text.find(',');
    parts.emplace_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

std::vector<std::int64_t> parse_sizes(std::string_view text) {
  std::vector<std::int64_t> sizes;
  for (const std::string& part : split_list(text)) {
    const std::size_t dash = part.find('-');
    std::int64_t size = parse_size(std::string_view(part).substr(0, dash));
    const std::int64_t last =
        dash == std::string::npos
            ? size
            : parse_size(std::string_view(part).substr(dash + 1));
    if ((!sizes.empty() && size <= sizes.back()) || last < size) {
      fail<UsageError>("--sizes: '{}' does not ascend", text);
    }
    for (; size <= last; size *= 4) sizes.push_back(size);
  }
  return sizes;
}

double parse_number(std::string_view option, const std::string& text,
                    double least) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value) || value < least) {
    fail<UsageError>("{} must be a number from {} on, got '{}'", option, least,
                     text);
  }
  return value;
}

}  // namespace thinwire
