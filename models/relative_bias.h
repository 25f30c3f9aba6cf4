// T5's relative position bias. Raffel et al. 2020, "Exploring the limits of
// transfer learning with a unified text-to-text transformer", sec. 2.1:
// half of the buckets count distances one by one, the others grow
// logarithmically up to a maximum distance.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "ops/layout.h"

namespace thinwire {

class RelativeBuckets {
 public:
  RelativeBuckets(std::int64_t buckets, std::int64_t max_distance,
                  bool bidirectional);

  // weight [buckets, H] -> [H, L, L], one for all sequences, or [B, H, L, L]
  // where positions have holes; contiguous, differentiable in weight. Entry
  // (i, j) is of key position minus query position; what lies past the end of
  // a sequence holds some bucket's value, and attention does not read it.
  at::Tensor bias(const at::Tensor& weight, const Layout& layout);
  // Queries that are a part of the keys' rows -> [H, Lq, Lk], one for all
  // sequences if those are equally long without holes and the queries are the
  // last of each, else [B, H, Lq, Lk].
  at::Tensor bias(const at::Tensor& weight, const Layout& queries,
                  const Layout& keys) const;
  // Of the bias expanded to [B, H, L, L]: its gradient -> the weight's own for
  // each sequence, [B, buckets, H].
  std::function<at::Tensor(const at::Tensor& grad)> gradient(
      const Layout& layout);

 private:
  const at::Tensor& of_length(std::int64_t length);
  at::Tensor of_distances(const at::Tensor& key_minus_query) const;

  std::int64_t buckets_, max_distance_;
  bool bidirectional_;
  std::map<std::int64_t, at::Tensor> by_length_;  // [L, L]
};

}  // namespace thinwire
