// Randomness as a function, not a state: every random number is
// Philox4x32-10(key; counter), with the key made of (seed, purpose, step) and
// the counter of what the number belongs to (sample, site, position, feature).
// Nothing random is ever checkpointed, a resumed, split or recomputed pass
// draws the same numbers, and P ranks draw what one rank would.
//
// Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace thinwire {

// What a number is for. The value is part of the key: never renumber.
enum class Purpose : std::uint32_t {
  kInit = 1,  // initial values, keyed by tensor name
  kDropout = 2,
  kMask = 3,      // random masks
  kOrder = 4,     // data order
  kScore = 5,     // which examples score a mask
  kGenerate = 7,  // which token comes next
  kTest = 99,
};

struct PhiloxKey {
  std::uint32_t k0, k1;
};

using PhiloxBlock = std::array<std::uint32_t, 4>;

// 64-bit finaliser (splitmix64): spreads low-entropy inputs over all bits.
constexpr std::uint64_t mix64(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

constexpr PhiloxKey make_key(std::uint64_t seed, Purpose purpose,
                             std::uint64_t step = 0) {
  const std::uint64_t h =
      mix64(mix64(mix64(seed) ^ static_cast<std::uint64_t>(purpose)) ^ step);
  return {static_cast<std::uint32_t>(h), static_cast<std::uint32_t>(h >> 32)};
}

// One block of four 32-bit numbers.
constexpr PhiloxBlock philox(PhiloxKey key, PhiloxBlock c) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ key.k0,
         static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ key.k1,
         static_cast<std::uint32_t>(p0)};
    key.k0 += 0x9E3779B9u;
    key.k1 += 0xBB67AE85u;
  }
  return c;
}

// Uniform in [0, 1) with 24 bits, exact in fp32.
constexpr float uniform01(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1.0p-24f;
}

// 64-bit hash of a name, the same on every machine and in every run.
std::uint64_t name_seed(std::string_view name);

// Fills out[n] with the numbers that belong to `name`: uniform in [low, high),
// or normal(mean 0, std). A prefix of a longer fill is the shorter fill.
void fill_uniform(float* out, std::int64_t n, std::uint64_t seed,
                  std::string_view name, float low, float high);
void fill_normal(float* out, std::int64_t n, std::uint64_t seed,
                 std::string_view name, float std);

// A keyed bijection of [0, n): position i of the shuffled order. O(1) time and
// memory (a Feistel network, walked until it lands inside), so 10^9 items need
// no table. Throws InternalError unless 0 <= i < n.
std::uint64_t permute_index(std::uint64_t i, std::uint64_t n, PhiloxKey key);

}  // namespace thinwire
