// Text as code points: what Python's str does where a reference metric relies
// on it. Tables: base/unicode_tables.inc, written by
// tests/golden/make_unicode.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

// The code points of UTF-8 text; U+FFFD for a byte that begins none.
std::vector<std::uint32_t> code_points(std::string_view text);
void append_utf8(std::string& out, std::uint32_t code_point);

// str.lower().
std::string lower_case(std::string_view text);
// str.split(): the parts between white space.
std::vector<std::string> split_words(std::string_view text);
// A letter, a number or the underscore: re's \w.
bool is_word(std::uint32_t code_point);
bool is_space(std::uint32_t code_point);

}  // namespace thinwire
