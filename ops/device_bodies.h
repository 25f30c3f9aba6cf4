// What each thread of a kernel of ops/cuda/ does, as plain functions: the
// kernels call them with their own item, tests on the CPU with every item in
// turn. Internal to ops/.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "ops/device_kernels.h"
#include "ops/dropout_numbers.h"

namespace thinwire {

constexpr int kWarp = 32;  // threads that make one dot product

// bf16 as its 16 bits.
THINWIRE_HOST_DEVICE inline float bf16_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
// To nearest, ties to even.
THINWIRE_HOST_DEVICE inline std::uint16_t bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >>
                                    16);
}

THINWIRE_HOST_DEVICE inline std::int64_t place_at(const void* index, bool wide,
                                                  std::int64_t i) {
  return wide ? static_cast<const std::int64_t*>(index)[i]
              : static_cast<const std::int32_t*>(index)[i];
}

// An item of dropout is one Philox block of one row: four numbers.
constexpr std::int64_t dropout_items(const DropoutJob& job) {
  return job.rows * draw_blocks(job.d);
}

THINWIRE_HOST_DEVICE inline void dropout_item(const DropoutJob& job,
                                              std::int64_t item) {
  const std::int64_t blocks = draw_blocks(job.d);
  const std::int64_t row = item / blocks, block = item % blocks;
  std::int64_t named = row;  // in samples and positions
  std::uint32_t site = job.site;
  bool exists = true;
  if (job.heads > 0) {
    const std::int64_t query = row % job.queries;
    const std::int64_t sequence = row / job.queries / job.heads;
    named = sequence * job.queries + query;
    site = site_of_head(site, row / job.queries % job.heads);
    exists = query < job.lengths[sequence];
  }
  const RowDraw from =
      draw_of_row(job.key, static_cast<std::uint64_t>(job.samples[named]),
                  static_cast<std::uint32_t>(job.positions[named]), site);
  const PhiloxBlock drawn =
      philox(from.key, {static_cast<std::uint32_t>(block), from.position,
                        from.sample, from.site});
  for (int word = 0; word < 4; ++word) {
    const std::int64_t f = draw_feature(block, word);
    if (f >= job.d) continue;
    const float kept = job.in[row * job.d + f] * job.scale;
    const auto bits =
        static_cast<std::int32_t>(drawn[static_cast<unsigned>(word)] >> 8);
    job.out[row * job.d + f] = exists && bits >= job.threshold ? kept : 0.0f;
  }
}

// One lane's part of a dot product of n numbers: every kWarp'th.
template <class Number>
THINWIRE_HOST_DEVICE inline float dot_lane(const Number* a, const Number* b,
                                           std::int64_t n, int lane) {
  float sum = 0;
  for (std::int64_t t = lane; t < n; t += kWarp) {
    if constexpr (sizeof(Number) == sizeof(float)) {
      sum = std::fma(a[t], b[t], sum);
    } else {
      sum = std::fma(bf16_value(a[t]), bf16_value(b[t]), sum);
    }
  }
  return sum;
}

// Where position `item` reads its two lines, in numbers; false: dy does not
// cover its row.
struct DotLines {
  std::int64_t x, dy;
};
THINWIRE_HOST_DEVICE inline bool dot_lines(const MaskedDotsJob& job,
                                           std::int64_t item, DotLines& out) {
  const std::int64_t at = place_at(job.index, job.wide, item);
  const std::int64_t row = at / job.in - job.first_row;
  if (row < 0 || row >= job.rows) return false;
  out.x = at % job.in * job.tokens;
  out.dy = row * job.tokens;
  return true;
}

// A lane's sum for one position; lanes are then added in a tree, the upper half
// to the lower.
THINWIRE_HOST_DEVICE inline float masked_dot_lane(const MaskedDotsJob& job,
                                                  const DotLines& lines,
                                                  int lane) {
  if (job.bf16) {
    return dot_lane(static_cast<const std::uint16_t*>(job.x) + lines.x,
                    static_cast<const std::uint16_t*>(job.dy) + lines.dy,
                    job.tokens, lane);
  }
  return dot_lane(static_cast<const float*>(job.x) + lines.x,
                  static_cast<const float*>(job.dy) + lines.dy, job.tokens,
                  lane);
}

THINWIRE_HOST_DEVICE inline void masked_dot_store(const MaskedDotsJob& job,
                                                  std::int64_t item,
                                                  float sum) {
  job.grad[item] = (job.accumulate ? job.grad[item] : 0.0f) + sum;
}

// Number i of the write's own.
THINWIRE_HOST_DEVICE inline void write_item(const MaskedWrite& write,
                                            std::int64_t i, float value) {
  const std::int64_t at = place_at(write.index, write.wide, i);
  if (write.bf16) {
    static_cast<std::uint16_t*>(write.weight)[at] = bf16_bits(value);
  } else {
    static_cast<float*>(write.weight)[at] = value;
  }
}

// Number i of the vector, into whichever of the writes covers it.
THINWIRE_HOST_DEVICE inline void write_number(const MaskedWrite* writes,
                                              std::int64_t count,
                                              std::int64_t i, float value) {
  std::int64_t low = 0, high = count;  // the first that ends behind i
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (writes[middle].begin + writes[middle].count <= i) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  if (low < count && writes[low].begin <= i) {
    write_item(writes[low], i - writes[low].begin, value);
  }
}

THINWIRE_HOST_DEVICE inline void adamw_item(const OptimizerJob& job,
                                            const AdamwFactors& f,
                                            std::int64_t i) {
  const float* towards = job.decay_towards;
  if (towards == nullptr) {
    adamw_element<false>(job.values + i, job.grads[i], job.first + i,
                         job.second + i, nullptr, f);
  } else {
    adamw_element<true>(job.values + i, job.grads[i], job.first + i,
                        job.second + i, towards + i, f);
  }
  write_number(job.writes, job.writes_count, i, job.values[i]);
}

THINWIRE_HOST_DEVICE inline void lion_item(const OptimizerJob& job,
                                           const LionFactors& f,
                                           std::int64_t i) {
  const float* towards = job.decay_towards;
  if (towards == nullptr) {
    lion_element<false>(job.values + i, job.grads[i], job.first + i, nullptr,
                        f);
  } else {
    lion_element<true>(job.values + i, job.grads[i], job.first + i, towards + i,
                       f);
  }
  write_number(job.writes, job.writes_count, i, job.values[i]);
}

THINWIRE_HOST_DEVICE inline void sgd_item(const OptimizerJob& job,
                                          const SgdFactors& f, std::int64_t i) {
  sgd_element(job.values + i, job.grads[i],
              job.first == nullptr ? nullptr : job.first + i,
              job.decay_towards == nullptr ? 0.0f : job.decay_towards[i], f);
  write_number(job.writes, job.writes_count, i, job.values[i]);
}

}  // namespace thinwire
