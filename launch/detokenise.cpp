#include "launch/detokenise.h"

#include <algorithm>
#include <string_view>

namespace thinwire {
namespace {

constexpr std::string_view kWordStart = "▁";

bool special(std::string_view token) {
  return token.size() > 2 && ((token.front() == '<' && token.back() == '>') ||
                              (token.front() == '[' && token.back() == ']'));
}

}  // namespace

std::string detokenise(std::span<const std::int32_t> ids,
                       const std::vector<std::string>& vocabulary) {
  const bool pieces = std::ranges::any_of(
      vocabulary, [](const auto& t) { return t.starts_with(kWordStart); });
  std::string out;
  for (const std::int32_t id : ids) {
    if (id < 0 || static_cast<std::size_t>(id) >= vocabulary.size()) continue;
    std::string_view token = vocabulary[static_cast<std::size_t>(id)];
    if (special(token)) continue;
    bool new_word = !pieces;
    if (pieces && token.starts_with(kWordStart)) {
      token.remove_prefix(kWordStart.size());
      new_word = true;
    } else if (!pieces && token.starts_with("##")) {
      token.remove_prefix(2);
      new_word = false;
    }
    if (new_word && !out.empty()) out += ' ';
    out += token;
  }
  return out;
}

}  // namespace thinwire
