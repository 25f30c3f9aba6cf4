#include "comm/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "comm/combine.h"

namespace thinwire {
namespace {

constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kScaleBytes = 4;
// Both that long and a block at a time: what is decoded stays in cache.
constexpr std::int64_t kPart = 16 * kBlock;

std::uint16_t to_bf16(float number) {
  const auto bits = std::bit_cast<std::uint32_t>(number);
  const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40u;
  return static_cast<std::uint16_t>(
      (bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

void encode_bf16(const float* numbers, std::int64_t count, std::byte* bytes) {
  std::array<std::uint16_t, kBlock> words;
  for (std::int64_t i = 0; i < count; i += kBlock) {
    const std::int64_t n = std::min(kBlock, count - i);
    for (std::int64_t j = 0; j < n; ++j) {
      words[static_cast<std::size_t>(j)] = to_bf16(numbers[i + j]);
    }
    std::memcpy(bytes + 2 * i, words.data(), static_cast<std::size_t>(2 * n));
  }
}

void decode_bf16(const std::byte* bytes, std::int64_t count, float* numbers) {
  std::array<std::uint16_t, kBlock> words;
  for (std::int64_t i = 0; i < count; i += kBlock) {
    const std::int64_t n = std::min(kBlock, count - i);
    std::memcpy(words.data(), bytes + 2 * i, static_cast<std::size_t>(2 * n));
    for (std::int64_t j = 0; j < n; ++j) {
      numbers[i + j] = std::bit_cast<float>(
          std::uint32_t{words[static_cast<std::size_t>(j)]} << 16);
    }
  }
}

// The largest magnitude / 127; not finite if a number is not.
float scale_of(const float* numbers, std::int64_t count) {
  // As integers, magnitudes are ordered like the floats, NaN above all.
  std::uint32_t most = 0;
  for (std::int64_t j = 0; j < count; ++j) {
    most =
        std::max(most, std::bit_cast<std::uint32_t>(numbers[j]) & 0x7fffffffu);
  }
  return std::bit_cast<float>(most) / 127.0f;
}

// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, ties to
// even.
constexpr float kRounder = 12582912.0f;

void encode_int8_block(const float* numbers, std::int64_t count,
                       std::byte* bytes) {
  float scale = scale_of(numbers, count);
  // What is smaller than that is zero: its inverse would not be finite.
  if (scale < std::numeric_limits<float>::min()) scale = 0;
  const bool usable = scale > 0 && std::isfinite(scale);
  std::array<std::int8_t, kBlock> words{};
  if (usable) {
    const float inverse = 1.0f / scale;
    for (std::int64_t j = 0; j < count; ++j) {
      const float whole = (numbers[j] * inverse + kRounder) - kRounder;
      words[static_cast<std::size_t>(j)] =
          static_cast<std::int8_t>(static_cast<std::int32_t>(whole));
    }
  }
  std::memcpy(bytes, &scale, sizeof scale);
  std::memcpy(bytes + kScaleBytes, words.data(),
              static_cast<std::size_t>(count));
}

void decode_int8_block(const std::byte* bytes, std::int64_t count,
                       float* numbers) {
  float scale = 0;
  std::array<std::int8_t, kBlock> words;
  std::memcpy(&scale, bytes, sizeof scale);
  std::memcpy(words.data(), bytes + kScaleBytes,
              static_cast<std::size_t>(count));
  for (std::int64_t j = 0; j < count; ++j) {
    numbers[j] = scale * static_cast<float>(words[static_cast<std::size_t>(j)]);
  }
}

template <class Body>
void for_blocks(std::int64_t count, Body body) {
  for (std::int64_t i = 0; i < count; i += kBlock) {
    body(i, std::min(kBlock, count - i), i / kBlock * (kBlock + kScaleBytes));
  }
}

template <class Body>
void for_parts(Codec codec, std::int64_t count, Body body) {
  for (std::int64_t i = 0; i < count; i += kPart) {
    body(i, std::min(kPart, count - i), encoded_bytes(codec, i));
  }
}

}  // namespace

std::int64_t codec_grain(Codec codec) noexcept {
  return codec == Codec::kInt8 ? kBlock : 1;
}

std::int64_t encoded_bytes(Codec codec, std::int64_t count) noexcept {
  switch (codec) {
    case Codec::kFp32:
      return 4 * count;
    case Codec::kBf16:
      return 2 * count;
    case Codec::kInt8:
      break;
  }
  return count + (count + kBlock - 1) / kBlock * kScaleBytes;
}

void encode(Codec codec, std::span<const float> numbers, std::byte* bytes) {
  switch (codec) {
    case Codec::kFp32:
      if (!numbers.empty()) {
        std::memcpy(bytes, numbers.data(), numbers.size_bytes());
      }
      return;
    case Codec::kBf16:
      return encode_bf16(numbers.data(), std::ssize(numbers), bytes);
    case Codec::kInt8:
      return for_blocks(std::ssize(numbers),
                        [&](std::int64_t i, std::int64_t n, std::int64_t at) {
                          encode_int8_block(numbers.data() + i, n, bytes + at);
                        });
  }
}

void decode(Codec codec, const std::byte* bytes, std::span<float> numbers) {
  switch (codec) {
    case Codec::kFp32:
      if (!numbers.empty()) {
        std::memcpy(numbers.data(), bytes, numbers.size_bytes());
      }
      return;
    case Codec::kBf16:
      return decode_bf16(bytes, std::ssize(numbers), numbers.data());
    case Codec::kInt8:
      return for_blocks(std::ssize(numbers),
                        [&](std::int64_t i, std::int64_t n, std::int64_t at) {
                          decode_int8_block(bytes + at, n, numbers.data() + i);
                        });
  }
}

void seal(Codec codec, std::span<float> numbers, std::byte* bytes,
          float* rest) {
  std::array<float, kPart> decoded;
  for_parts(
      codec, std::ssize(numbers),
      [&](std::int64_t i, std::int64_t n, std::int64_t at) {
        float* part = numbers.data() + i;
        const auto size = static_cast<std::size_t>(n);
        encode(codec, {part, size}, bytes + at);
        decode(codec, bytes + at, {decoded.data(), size});
        if (rest != nullptr) {
          for (std::int64_t j = 0; j < n; ++j) {
            const float lost = part[j] - decoded[static_cast<std::size_t>(j)];
            rest[i + j] += std::fabs(lost) <= std::numeric_limits<float>::max()
                               ? lost
                               : 0.0f;
          }
        }
        std::copy_n(decoded.data(), n, part);
      });
}

void decode_add(Codec codec, const std::byte* bytes, std::span<float> numbers,
                bool bytes_first) {
  std::array<float, kPart> decoded;
  const auto* theirs = reinterpret_cast<const std::byte*>(decoded.data());
  for_parts(codec, std::ssize(numbers),
            [&](std::int64_t i, std::int64_t n, std::int64_t at) {
              const auto size = static_cast<std::size_t>(n);
              decode(codec, bytes + at, {decoded.data(), size});
              auto* mine = reinterpret_cast<std::byte*>(numbers.data() + i);
              combine(ReduceOp::kSum, Element::kFloat32,
                      bytes_first ? theirs : mine, bytes_first ? mine : theirs,
                      mine, size);
            });
}

}  // namespace thinwire
