#include "base/random.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/clones.h"
#include "base/error.h"
#include "base/hash.h"

namespace thinwire {
namespace {

// Philox blocks drawn side by side; each gives four numbers.
constexpr int kLanes = 16;

struct NameDraw {
  PhiloxKey key;
  std::uint32_t low, high;  // of the name's seed
};

NameDraw name_draw(std::uint64_t seed, std::string_view name) {
  const std::uint64_t id = name_seed(name);
  return {make_key(seed, Purpose::kInit), static_cast<std::uint32_t>(id),
          static_cast<std::uint32_t>(id >> 32)};
}

// words[w][i]: word w of block first + i.
inline __attribute__((always_inline)) void draw_lanes(
    std::uint32_t (&words)[4][kLanes], const NameDraw& draw,
    std::uint64_t first) {
  for (int i = 0; i < kLanes; ++i) {
    const std::uint64_t block = first + static_cast<std::uint64_t>(i);
    words[0][i] = static_cast<std::uint32_t>(block);
    words[1][i] = static_cast<std::uint32_t>(block >> 32);
    words[2][i] = draw.low;
    words[3][i] = draw.high;
  }
  std::uint32_t k0 = draw.key.k0, k1 = draw.key.k1;
  for (int round = 0; round < 10; ++round) {
    for (int i = 0; i < kLanes; ++i) {  // philox(), by lane
      const std::uint64_t p0 = std::uint64_t{0xD2511F53u} * words[0][i];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57u} * words[2][i];
      words[0][i] = static_cast<std::uint32_t>(p1 >> 32) ^ words[1][i] ^ k0;
      words[2][i] = static_cast<std::uint32_t>(p0 >> 32) ^ words[3][i] ^ k1;
      words[1][i] = static_cast<std::uint32_t>(p1);
      words[3][i] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
}

// Box-Muller needs a logarithm, a sine and a cosine. Plain polynomials run in
// vector registers, and give the same bits on every machine, which the C
// library's do not promise. Errors are below 3e-7.

// ln x for x in (0, 1]: x = m 2^e with m in [1/sqrt 2, sqrt 2), then the series
// of 2 artanh((m - 1) / (m + 1)).
inline __attribute__((always_inline)) float log_unit(float x) {
  constexpr std::int32_t kRootHalf = 0x3f3504f3;  // bits of 1/sqrt 2
  const auto bits = std::bit_cast<std::int32_t>(x);
  const std::int32_t e = (bits - kRootHalf) >> 23;
  const auto m = std::bit_cast<float>(bits - e * (1 << 23));
  const float s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  const float series =
      ((s2 * (2.0f / 9) + 2.0f / 7) * s2 + 2.0f / 5) * s2 + 2.0f / 3;
  return static_cast<float>(e) * 0.693147181f + (series * s2 + 2.0f) * s;
}

// cos and sin of 2 pi v, v in [0, 1): Taylor series within an eighth of a turn
// of the nearest quarter, then the quarter turns.
inline __attribute__((always_inline)) void cos_sin_turn(float v, float& cosine,
                                                        float& sine) {
  const auto quarter = static_cast<std::int32_t>(4.0f * v + 0.5f);
  const float x = (v - static_cast<float>(quarter) * 0.25f) * 6.283185307f;
  const float x2 = x * x;
  const float s =
      x * (1.0f +
           x2 * (-1.0f / 6 + x2 * (1.0f / 120 + x2 * (-1.0f / 5040 +
                                                      x2 * (1.0f / 362880)))));
  const float c =
      1.0f + x2 * (-0.5f +
                   x2 * (1.0f / 24 + x2 * (-1.0f / 720 + x2 * (1.0f / 40320))));
  const bool odd = (quarter & 1) != 0;
  const float a = odd ? s : c, b = odd ? c : s;
  cosine = ((quarter + 1) & 2) != 0 ? -a : a;
  sine = (quarter & 2) != 0 ? -b : b;
}

// out[4 * lanes]: four normal numbers a block, in order of the blocks.
THINWIRE_CLONE_BODY void normal_lanes_body(float* out, NameDraw draw,
                                           std::uint64_t first, float std) {
  std::uint32_t words[4][kLanes];
  draw_lanes(words, draw, first);
  float z[4][kLanes];
  for (int pair = 0; pair < 4; pair += 2) {
    for (int i = 0; i < kLanes; ++i) {
      // 1 - u lies in (0, 1], so the logarithm is finite.
      const auto u =
          static_cast<float>(static_cast<std::int32_t>(words[pair][i] >> 8)) *
          0x1.0p-24f;
      const auto v = static_cast<float>(
                         static_cast<std::int32_t>(words[pair + 1][i] >> 8)) *
                     0x1.0p-24f;
      const float radius = std * std::sqrt(-2.0f * log_unit(1.0f - u));
      float cosine, sine;
      cos_sin_turn(v, cosine, sine);
      z[pair][i] = radius * cosine;
      z[pair + 1][i] = radius * sine;
    }
  }
  for (int i = 0; i < kLanes; ++i) {
    for (int w = 0; w < 4; ++w) out[4 * i + w] = z[w][i];
  }
}
constexpr Clones<&normal_lanes_body> normal_lanes;

THINWIRE_CLONE_BODY void uniform_lanes_body(float* out, NameDraw draw,
                                            std::uint64_t first, float low,
                                            float width) {
  std::uint32_t words[4][kLanes];
  draw_lanes(words, draw, first);
  for (int i = 0; i < kLanes; ++i) {
    for (int w = 0; w < 4; ++w) {
      out[4 * i + w] = low + width * uniform01(words[w][i]);
    }
  }
}
constexpr Clones<&uniform_lanes_body> uniform_lanes;

// Whole groups of lanes go straight to `out`, the last through a buffer.
template <class Lanes>
void fill(float* out, std::int64_t n, const Lanes& lanes) {
  constexpr std::int64_t kGroup = 4 * kLanes;
  std::int64_t i = 0;
  for (; i + kGroup <= n; i += kGroup) {
    lanes(out + i, static_cast<std::uint64_t>(i / 4));
  }
  if (i == n) return;
  float rest[kGroup];
  lanes(rest, static_cast<std::uint64_t>(i / 4));
  std::copy_n(rest, n - i, out + i);
}

}  // namespace

std::uint64_t name_seed(std::string_view name) { return hash64(name); }

void fill_uniform(float* out, std::int64_t n, std::uint64_t seed,
                  std::string_view name, float low, float high) {
  const NameDraw draw = name_draw(seed, name);
  fill(out, n, [&](float* to, std::uint64_t first) {
    uniform_lanes(to, draw, first, low, high - low);
  });
}

void fill_normal(float* out, std::int64_t n, std::uint64_t seed,
                 std::string_view name, float std) {
  const NameDraw draw = name_draw(seed, name);
  fill(out, n, [&](float* to, std::uint64_t first) {
    normal_lanes(to, draw, first, std);
  });
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
