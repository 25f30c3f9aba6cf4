#include "tasks/porter.h"

#include <span>
#include <utility>

namespace thinwire {
namespace {

bool is_vowel_letter(char c) {
  return std::string_view("aeiou").find(c) != std::string_view::npos;
}

// A y is a vowel behind a consonant.
bool is_consonant(std::string_view word, std::size_t i) {
  bool consonant = true;
  for (std::size_t k = 0; k <= i; ++k) {
    consonant =
        word[k] == 'y' ? k == 0 || !consonant : !is_vowel_letter(word[k]);
  }
  return consonant;
}

// The paper's m: how often consonants follow vowels.
int measure(std::string_view stem) {
  int count = 0;
  bool before = true, now = true;
  for (std::size_t i = 0; i < stem.size(); ++i, before = now) {
    now = stem[i] == 'y' ? i == 0 || !before : !is_vowel_letter(stem[i]);
    count += i > 0 && now && !before ? 1 : 0;
  }
  return count;
}

bool has_vowel(std::string_view stem) {
  // A y stands at the front, behind a consonant or, itself one, behind a vowel.
  return stem.find_first_of("aeiou") != std::string_view::npos ||
         (!stem.empty() && stem.find('y', 1) != std::string_view::npos);
}

bool ends_in_double_consonant(std::string_view word) {
  const std::size_t n = word.size();
  return n >= 2 && word[n - 1] == word[n - 2] && is_consonant(word, n - 1);
}

// The paper's *o: consonant, vowel, consonant other than w, x, y; or a word of
// a vowel and a consonant.
bool ends_short(std::string_view word) {
  const std::size_t n = word.size();
  if (n == 2) return !is_consonant(word, 0) && is_consonant(word, 1);
  return n >= 3 && is_consonant(word, n - 3) && !is_consonant(word, n - 2) &&
         is_consonant(word, n - 1) &&
         std::string_view("wxy").find(word[n - 1]) == std::string_view::npos;
}

// The first rule whose suffix the word has decides.
struct Rule {
  std::string_view suffix, replacement;
};

std::string_view without(std::string_view word, std::string_view suffix) {
  return word.substr(0, word.size() - suffix.size());
}

template <class Condition>
std::string apply(std::string_view word, std::span<const Rule> rules,
                  Condition condition) {
  for (const auto& [suffix, replacement] : rules) {
    if (!word.ends_with(suffix)) continue;
    const std::string_view stem = without(word, suffix);
    if (!condition(stem, suffix)) break;
    return std::string(stem).append(replacement);
  }
  return std::string(word);
}

std::string plurals(std::string_view word) {
  if (word.size() == 4 && word.ends_with("ies")) {
    return std::string(without(word, "s"));
  }
  static constexpr Rule kRules[] = {
      {"sses", "ss"}, {"ies", "i"}, {"ss", "ss"}, {"s", ""}};
  return apply(word, kRules, [](auto, auto) { return true; });
}

std::string participles(std::string_view word) {
  if (word.ends_with("ied")) {
    return std::string(without(word, word.size() == 4 ? "d" : "ed"));
  }
  if (word.ends_with("eed")) {
    const bool long_enough = measure(without(word, "eed")) > 0;
    return std::string(long_enough ? without(word, "d") : word);
  }
  std::string_view stem;
  for (const std::string_view suffix : {"ed", "ing"}) {
    if (word.ends_with(suffix) && has_vowel(without(word, suffix))) {
      stem = without(word, suffix);
      break;
    }
  }
  if (stem.empty()) return std::string(word);
  if (stem.ends_with("at") || stem.ends_with("bl") || stem.ends_with("iz")) {
    return std::string(stem) + "e";
  }
  if (ends_in_double_consonant(stem)) {
    const bool kept =
        std::string_view("lsz").find(stem.back()) != std::string_view::npos;
    return std::string(kept ? stem : stem.substr(0, stem.size() - 1));
  }
  if (measure(stem) == 1 && ends_short(stem)) return std::string(stem) + "e";
  return std::string(stem);
}

std::string final_y(std::string word) {
  const std::size_t n = word.size();
  if (n > 2 && word.back() == 'y' && is_consonant(word, n - 2)) {
    word.back() = 'i';
  }
  return word;
}

bool positive(std::string_view stem, std::string_view) {
  return measure(stem) > 0;
}

std::string double_suffixes(std::string_view word) {
  if (word.ends_with("alli") && measure(without(word, "alli")) > 0) {
    return double_suffixes(without(word, "li"));
  }
  static constexpr Rule kRules[] = {
      {"ational", "ate"}, {"tional", "tion"}, {"enci", "ence"},
      {"anci", "ance"},   {"izer", "ize"},    {"bli", "ble"},
      {"alli", "al"},     {"entli", "ent"},   {"eli", "e"},
      {"ousli", "ous"},   {"ization", "ize"}, {"ation", "ate"},
      {"ator", "ate"},    {"alism", "al"},    {"iveness", "ive"},
      {"fulness", "ful"}, {"ousness", "ous"}, {"aliti", "al"},
      {"iviti", "ive"},   {"biliti", "ble"},  {"fulli", "ful"},
      {"logi", "log"}};
  return apply(word, kRules, [&](std::string_view stem, auto suffix) {
    // -logi is judged with its l, as part of the stem.
    return measure(suffix == "logi" ? without(word, "ogi") : stem) > 0;
  });
}

std::string single_suffixes(std::string_view word) {
  static constexpr Rule kRules[] = {
      {"icate", "ic"}, {"ative", ""}, {"alize", "al"}, {"iciti", "ic"},
      {"ical", "ic"},  {"ful", ""},   {"ness", ""}};
  return apply(word, kRules, positive);
}

std::string last_suffixes(std::string_view word) {
  static constexpr Rule kRules[] = {
      {"al", ""},   {"ance", ""}, {"ence", ""}, {"er", ""},    {"ic", ""},
      {"able", ""}, {"ible", ""}, {"ant", ""},  {"ement", ""}, {"ment", ""},
      {"ent", ""},  {"ion", ""},  {"ou", ""},   {"ism", ""},   {"ate", ""},
      {"iti", ""},  {"ous", ""},  {"ive", ""},  {"ize", ""}};
  return apply(word, kRules, [](std::string_view stem, auto suffix) {
    return measure(stem) > 1 &&
           (suffix != "ion" || stem.ends_with('s') || stem.ends_with('t'));
  });
}

std::string final_e_and_l(std::string_view word) {
  if (word.ends_with('e')) {
    const std::string_view stem = without(word, "e");
    const int m = measure(stem);
    if (m > 1 || (m == 1 && !ends_short(stem))) word = stem;
  }
  const std::string_view shorter = word.substr(0, word.size() - 1);
  if (word.ends_with("ll") && measure(shorter) > 1) word = shorter;
  return std::string(word);
}

constexpr std::pair<std::string_view, std::string_view> kIrregular[] = {
    {"sky", "sky"},         {"skies", "sky"},        {"dying", "die"},
    {"lying", "lie"},       {"tying", "tie"},        {"news", "news"},
    {"innings", "inning"},  {"inning", "inning"},    {"outings", "outing"},
    {"outing", "outing"},   {"cannings", "canning"}, {"canning", "canning"},
    {"howe", "howe"},       {"proceed", "proceed"},  {"exceed", "exceed"},
    {"succeed", "succeed"},
};

}  // namespace

std::string porter_stem(std::string_view word) {
  for (const auto& [form, stem] : kIrregular) {
    if (word == form) return std::string(stem);
  }
  if (word.size() <= 2) return std::string(word);
  const std::string whole = final_y(participles(plurals(word)));
  return final_e_and_l(last_suffixes(single_suffixes(double_suffixes(whole))));
}

}  // namespace thinwire
