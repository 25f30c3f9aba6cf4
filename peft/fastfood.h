// A random projection of D numbers to n, as a chain of Hadamard transforms: no
// D x n matrix, n log D time, some bytes a number. Le, Sarlos & Smola 2013,
// "Fastfood: approximating kernel expansions in loglinear time", sec. 4; as Li,
// Farkhoor, Liu & Yosinski 2018, "Measuring the intrinsic dimension of
// objective landscapes", use it.
// A block of p numbers, p the power of two from D up: H G P H B theta / (|G|
// sqrt(D)), theta filled up with zeros, B signs, P a permutation, G normal
// numbers, H Hadamard's matrix of +-1, all but H the block's own; n numbers are
// the first of as many blocks. A row of the whole has norm 1, nearly, so that a
// number moves about as far as those of theta do. (There a column has: theta
// must move the further, the more numbers hang on it.)
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace thinwire {

class Fastfood {
 public:
  // To tensors of `numbers` each, one after the other, every one beginning with
  // a block. A function of the arguments, on `device`. dimension in [1, 2^20].
  Fastfood(std::int64_t dimension, const std::vector<std::int64_t>& numbers,
           std::uint64_t seed, at::Device device);

  // theta fp32 [D] -> the numbers of a tensor, fp32 [numbers[tensor]].
  // Differentiable in theta.
  at::Tensor operator()(const at::Tensor& theta, std::size_t tensor) const;

 private:
  struct Blocks {
    at::Tensor signs;   // int8 [blocks, p]
    at::Tensor order;   // int32 [blocks p]: where each number comes from
    at::Tensor normal;  // fp32 [blocks, p], divided by |G| sqrt(D)
    std::int64_t numbers;
  };

  at::Tensor transform(const at::Tensor& x) const;  // [blocks, p], each row

  std::int64_t padded_;  // p
  std::vector<Blocks> blocks_;
  at::Tensor left_, right_;  // Hadamard's matrices, left (x) right is H
};

}  // namespace thinwire
