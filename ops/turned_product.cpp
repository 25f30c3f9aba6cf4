#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/turned_product.h"

#include <ATen/Parallel.h>
#include <ATen/native/CPUBlas.h>

#include <algorithm>
#include <type_traits>

#include "ops/aligned_buffer.h"
#include "ops/transpose.h"

namespace thinwire {
namespace {

// Rows of a at once ("lanes"), rows of b at once, and what of k one call of the
// micro-kernel sums. Measured on Zen 4 (1 MiB of second-level cache), fp32,
// against tiles of b: 1.3 times as fast for 16 rows, 1.14 for 64, 1.05 for 128,
// even at 256.
constexpr std::int64_t kMostRows = 192;
constexpr std::int64_t kLanes = 64, kLanesShallow = 128, kShallow = 1024;
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kVector = 16;  // lanes come in whole vectors

float* block_scratch() {
  static thread_local const AlignedBuffer block =
      make_aligned_buffer(kBlock * kLanesShallow);
  return block.get();
}

// `rows` rows of 32-bit units (numbers, or pairs of bf16) side by side:
// to [k, lanes], zero behind the last row.
void pack(float* to, const float* rows, std::int64_t count, std::int64_t row,
          std::int64_t k, std::int64_t lanes) {
  constexpr std::int64_t kGrain = 512;
  at::parallel_for(0, k, kGrain, [&](std::int64_t begin, std::int64_t end) {
    if (count < lanes) {
      std::fill(to + begin * lanes, to + end * lanes, 0.0f);
    }
    transpose(count, end - begin, rows + begin, row, to + begin * lanes, lanes);
  });
}

// Some rows of a, packed.
struct Lanes {
  const float *packed, *thin;
  std::int64_t first, count, lanes;
};

// out^T [count of b, lanes], then turned into out.
template <class T>
void multiply_block(const Product& p, const Lanes& a, std::int64_t begin,
                    std::int64_t count) {
  constexpr bool kPairs = !std::is_same_v<T, float>;
  constexpr std::int64_t kUnit = kPairs ? 2 : 1;
  const T* b = static_cast<const T*>(p.b) + begin * p.row_b;
  float* block = block_scratch();
  if (p.bias != nullptr) {
    for (std::int64_t i = 0; i < count; ++i) {
      std::fill_n(block + i * a.lanes, a.lanes, p.bias[begin + i]);
    }
  }
  for (std::int64_t d = 0; d < p.k; d += kShallow) {
    at::native::cpublas::brgemm(
        count, a.lanes, std::min(kShallow, p.k - d), p.row_b, a.lanes, a.lanes,
        d > 0 || p.bias != nullptr, b + d,
        reinterpret_cast<const T*>(a.packed + d / kUnit * a.lanes), block,
        kPairs);
  }
  for (std::int64_t d = 0; d < p.thin.k; d += kShallow) {
    at::native::cpublas::brgemm(
        count, a.lanes, std::min(kShallow, p.thin.k - d), p.thin.row_b, a.lanes,
        a.lanes, true, p.thin.b + begin * p.thin.row_b + d,
        a.thin + d * a.lanes, block, false);
  }
  transpose(count, a.count, block, a.lanes, p.out + a.first * p.row_out + begin,
            p.row_out);
}

template <class T>
void multiply(const Product& p) {
  constexpr std::int64_t kUnit = std::is_same_v<T, float> ? 1 : 2;
  const std::int64_t depth = p.k / kUnit;
  const std::int64_t most = std::min(p.k > kShallow ? kLanes : kLanesShallow,
                                     (p.m + kVector - 1) / kVector * kVector);
  const AlignedBuffer packed = make_aligned_buffer(depth * most);
  const AlignedBuffer thin = make_aligned_buffer(p.thin.k * most);
  for (std::int64_t first = 0; first < p.m; first += most) {
    const std::int64_t count = std::min(most, p.m - first);
    const std::int64_t lanes = (count + kVector - 1) / kVector * kVector;
    pack(packed.get(),
         reinterpret_cast<const float*>(static_cast<const T*>(p.a) +
                                        first * p.row_a),
         count, p.row_a / kUnit, depth, lanes);
    if (p.thin.k > 0) {
      pack(thin.get(), p.thin.a + first * p.thin.row_a, count, p.thin.row_a,
           p.thin.k, lanes);
    }
    const Lanes a{packed.get(), thin.get(), first, count, lanes};
    at::parallel_for(0, (p.n + kBlock - 1) / kBlock, 1,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) {
                         multiply_block<T>(p, a, i * kBlock,
                                           std::min(kBlock, p.n - i * kBlock));
                       }
                       if (kUnit == 2) at::native::cpublas::brgemm_release();
                     });
  }
}

}  // namespace

bool better_turned(const Product& p) {
  return p.transposed && !p.int8 && p.m <= kMostRows && p.n >= kVector;
}

void turned_product(const Product& p, at::ScalarType type) {
  if (type == at::kBFloat16) {
    multiply<at::BFloat16>(p);
  } else {
    multiply<float>(p);
  }
}

}  // namespace thinwire
