// The stem of an English word. Porter 1980, "An algorithm for suffix
// stripping", with the departures of NLTK's stemmer, which ROUGE is reported
// with: a few irregular words, -ies and -ied of short words, y after a vowel,
// -fulli and -logi. Internal to tasks/.
#pragma once

#include <string>
#include <string_view>

namespace thinwire {

// word: lower case; characters that are no letter count as consonants.
std::string porter_stem(std::string_view word);

}  // namespace thinwire
