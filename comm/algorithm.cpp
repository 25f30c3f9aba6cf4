#include "comm/algorithm.h"

#include <array>
#include <string>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::array<std::pair<std::string_view, Algorithm>, 6> kAlgorithms = {{
    {"auto", Algorithm::kAuto},
    {"doubling", Algorithm::kDoubling},
    {"halving_doubling", Algorithm::kHalvingDoubling},
    {"ring", Algorithm::kRing},
    {"two_level", Algorithm::kTwoLevel},
    {"mpi", Algorithm::kMpi},
}};

constexpr std::array<std::pair<std::string_view, Codec>, 3> kCodecs = {{
    {"fp32", Codec::kFp32},
    {"bf16", Codec::kBf16},
    {"int8", Codec::kInt8},
}};

template <class Table>
auto parse(const Table& table, std::string_view what, std::string_view name) {
  std::string known;
  for (const auto& [word, value] : table) {
    if (word == name) return value;
    known += known.empty() ? "" : ", ";
    known += word;
  }
  fail<UsageError>("{} '{}' is unknown; choose one of: {}", what, name, known);
}

template <class Table, class Value>
std::string_view word_of(const Table& table, Value value) noexcept {
  for (const auto& [word, known] : table) {
    if (known == value) return word;
  }
  return "?";
}

}  // namespace

Algorithm parse_algorithm(std::string_view name) {
  return parse(kAlgorithms, "algorithm", name);
}

Codec parse_codec(std::string_view name) {
  return parse(kCodecs, "codec", name);
}

std::string_view name_of(Algorithm algorithm) noexcept {
  return word_of(kAlgorithms, algorithm);
}

std::string_view name_of(Codec codec) noexcept {
  return word_of(kCodecs, codec);
}

}  // namespace thinwire
