// How fp32 numbers are written in a message.
//
//   fp32  as they are
//   bf16  rounded to nearest even; NaN stays NaN
//   int8  blocks of 256: the block's largest magnitude / 127 as fp32, then each
//         number divided by that and rounded to an integer; 0.254 of fp32
//
// A number that is not finite comes out not finite: in int8 with all of its
// block. Same input, same bytes, on every machine of IEEE floats.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "comm/algorithm.h"

namespace thinwire {

// Numbers that are encoded together. A range that is cut at multiples of it has
// the bytes of its parts, one after the other.
std::int64_t codec_grain(Codec codec) noexcept;

std::int64_t encoded_bytes(Codec codec, std::int64_t count) noexcept;

// bytes: encoded_bytes(codec, numbers.size()), no alignment needed.
void encode(Codec codec, std::span<const float> numbers, std::byte* bytes);
void decode(Codec codec, const std::byte* bytes, std::span<float> numbers);

// Encodes and goes on with what the bytes decode to. rest (null: dropped), of
// the same length, gains what rounding took away, where that is finite.
void seal(Codec codec, std::span<float> numbers, std::byte* bytes, float* rest);

// numbers = numbers + decoded bytes. bytes_first: those come from the lower
// rank, so that both ranks that add the same pair get the same NaN.
void decode_add(Codec codec, const std::byte* bytes, std::span<float> numbers,
                bool bytes_first);

}  // namespace thinwire
