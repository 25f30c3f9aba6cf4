#include "base/random.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/hash.h"

namespace thinwire {
namespace {

PhiloxBlock name_block(PhiloxKey key, std::uint64_t name, std::uint64_t i) {
  return philox(
      key, {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(i >> 32),
            static_cast<std::uint32_t>(name),
            static_cast<std::uint32_t>(name >> 32)});
}

}  // namespace

std::uint64_t name_seed(std::string_view name) { return hash64(name); }

void fill_uniform(float* out, std::int64_t n, std::uint64_t seed,
                  std::string_view name, float low, float high) {
  const PhiloxKey key = make_key(seed, Purpose::kInit);
  const std::uint64_t id = name_seed(name);
  for (std::int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock b =
        name_block(key, id, static_cast<std::uint64_t>(i / 4));
    for (std::int64_t j = i; j < n && j < i + 4; ++j) {
      out[j] =
          low + (high - low) * uniform01(b[static_cast<std::size_t>(j - i)]);
    }
  }
}

void fill_normal(float* out, std::int64_t n, std::uint64_t seed,
                 std::string_view name, float std) {
  const PhiloxKey key = make_key(seed, Purpose::kInit);
  const std::uint64_t id = name_seed(name);
  for (std::int64_t i = 0; i < n; i += 4) {
    const PhiloxBlock b =
        name_block(key, id, static_cast<std::uint64_t>(i / 4));
    float z[4];
    for (std::size_t pair = 0; pair < 2; ++pair) {  // Box-Muller
      // 1 - u lies in (0, 1], so the logarithm is finite.
      const double u = 1.0 - static_cast<double>(uniform01(b[2 * pair]));
      const double v = static_cast<double>(uniform01(b[2 * pair + 1]));
      const double radius = std::sqrt(-2.0 * std::log(u));
      z[2 * pair] =
          static_cast<float>(radius * std::cos(2.0 * std::numbers::pi * v));
      z[2 * pair + 1] =
          static_cast<float>(radius * std::sin(2.0 * std::numbers::pi * v));
    }
    for (std::int64_t j = i; j < n && j < i + 4; ++j) out[j] = std * z[j - i];
  }
}

std::uint64_t permute_index(std::uint64_t i, std::uint64_t n, PhiloxKey key) {
  THINWIRE_ASSERT(i < n, "i = {}, n = {}", i, n);
  if (n == 1) return 0;
  const int bits = std::bit_width(n - 1);
  const int half = (bits + 1) / 2;  // both halves equally wide
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  std::uint64_t x = i;
  do {  // cycle walking: the domain is less than 4n wide
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint32_t round = 0; round < 4; ++round) {
      const PhiloxBlock b =
          philox(key, {static_cast<std::uint32_t>(right),
                       static_cast<std::uint32_t>(right >> 32), round, 0});
      const std::uint64_t f = (std::uint64_t{b[1]} << 32 | b[0]) & mask;
      const std::uint64_t next = left ^ f;
      left = right;
      right = next;
    }
    x = left << half | right;
  } while (x >= n);
  return x;
}

}  // namespace thinwire
