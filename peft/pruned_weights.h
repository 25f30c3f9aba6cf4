// Numbers that a method has removed from frozen weights: they are 0 for as long
// as its delta is bound. A constant of the delta for each such tensor, one bit
// a number, so that it is agreed, saved and never sent.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace thinwire {

class Parameters;
struct Site;

using Constants = std::map<std::string, at::Tensor>;

// Name of the constant that says which numbers of a tensor are removed: uint8
// [ceil(n / 8)], bit i % 8 of byte i / 8 is number i's as the tensor lies.
std::string pruned_constant(std::string_view target);

// removed: bool, any shape; in the CPU's memory.
at::Tensor pack_bits(const at::Tensor& removed);
// bool of `shape`. Throws UsageError, naming what they are of, where the bits
// are not of as many numbers.
at::Tensor unpack_bits(const at::Tensor& bits, at::IntArrayRef shape,
                       std::string_view target);

// The bits of each tensor that has some, by its name.
std::map<std::string, at::Tensor> pruned_bits(const Constants& constants);

std::int64_t count_bits(const at::Tensor& bits);  // that are set

// Writes the zeros. Throws UsageError where there is no such tensor.
void prune(const Constants& constants, Parameters& parameters);

// What is left of a linear layer when its rows and columns of which every
// number is removed are left out.
struct LiveWidths {
  std::int64_t d_in, d_out;
};
LiveWidths live_widths(const Constants& constants, const Parameters& parameters,
                       const Site& site);

}  // namespace thinwire
