// Dropout whose mask is a function of (seed, step, sample, site, position,
// feature): the same for packed and padded batches, for one rank and many, and
// when a block is computed again. No mask is stored; backward draws it again.
#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "ops/layout.h"

namespace thinwire {

struct DropoutKey {
  std::uint64_t seed = 0, step = 0;
  std::uint32_t site = 0;  // dropout_site(name)
};

std::uint32_t dropout_site(std::string_view name);

// x fp32 [T, d], row t of layout. Kept values are scaled by 1 / (1 - p).
// p = 0 returns x itself. Differentiable. Throws UsageError unless 0 <= p < 1.
at::Tensor dropout(const at::Tensor& x, double p, const DropoutKey& key,
                   const Layout& layout);

// One row per sequence: x fp32 [B, d] (pooled vectors); position 0 of each.
at::Tensor dropout_pooled(const at::Tensor& x, double p, const DropoutKey& key,
                          const Layout& layout);

// Attention weights fp32 [B, H, Lq, Lk] in padded form: numbers belong to
// (sample, head, query position, key's index in its own sequence).
at::Tensor dropout_attention(const at::Tensor& weights, double p,
                             const DropoutKey& key, const Layout& queries);

}  // namespace thinwire
