// Did you mean …: the known word closest to a mistyped one.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

// The known word with the fewest edits (insertions, deletions, replacements
// and swaps of neighbours, case ignored) from `word`; the first of equals; ""
// when `known` is empty.
std::string nearest(std::string_view word,
                    const std::vector<std::string>& known);

// All of `known`, the nearest first, the rest in order: "lora, bitfit, full".
std::string list_nearest_first(std::string_view word,
                               const std::vector<std::string>& known);

}  // namespace thinwire
