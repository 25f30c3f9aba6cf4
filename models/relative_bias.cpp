#include "models/relative_bias.h"

#include <cmath>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/arange.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "ops/reference.h"

namespace thinwire {
namespace {

// Batches come in few lengths; beyond this many the cache starts anew.
constexpr std::size_t kCachedLengths = 64;

// int64 [B, L]: positions in padded form, 0 where there is no row.
at::Tensor padded_positions(const Layout& layout) {
  const std::int64_t batch = layout.batch(), length = layout.max_length;
  if (layout.uniform) return layout.positions.view({batch, length});
  return at::zeros({batch * length}, layout.positions.options())
      .index_copy_(0, layout.padded_rows, layout.positions)
      .view({batch, length});
}

}  // namespace

RelativeBuckets::RelativeBuckets(std::int64_t buckets,
                                 std::int64_t max_distance, bool bidirectional)
    : buckets_(buckets),
      max_distance_(max_distance),
      bidirectional_(bidirectional) {}

at::Tensor RelativeBuckets::of_distances(
    const at::Tensor& key_minus_query) const {
  const std::int64_t side = bidirectional_ ? buckets_ / 2 : buckets_;
  const std::int64_t exact = side / 2;
  const at::Tensor distance = bidirectional_
                                  ? key_minus_query.abs()
                                  : key_minus_query.neg().clamp_min(0);
  // fp32 throughout, as checkpoints were trained: at distances that are powers
  // of two the rounding decides the bucket.
  const at::Tensor far = distance.clamp_min(1)
                             .to(at::kFloat)
                             .div(static_cast<double>(exact))
                             .log()
                             .div(std::log(static_cast<double>(max_distance_) /
                                           static_cast<double>(exact)))
                             .mul(static_cast<double>(side - exact))
                             .to(at::kLong)
                             .add(exact)
                             .clamp_max(side - 1);
  at::Tensor bucket = at::where(distance.lt(exact), distance, far);
  if (bidirectional_) {
    bucket = bucket.add(key_minus_query.gt(0).to(at::kLong).mul(side));
  }
  return bucket;
}

const at::Tensor& RelativeBuckets::of_length(std::int64_t length) {
  auto found = by_length_.find(length);
  if (found == by_length_.end()) {
    if (by_length_.size() == kCachedLengths) by_length_.clear();
    const at::Tensor at = at::arange(length, at::kLong);
    found =
        by_length_
            .emplace(length, of_distances(at.unsqueeze(0).sub(at.unsqueeze(1))))
            .first;
  }
  return found->second;
}

at::Tensor RelativeBuckets::bias(const at::Tensor& weight,
                                 const Layout& layout) {
  if (layout.contiguous_positions) {
    return at::embedding(weight, beside(of_length(layout.max_length), weight))
        .permute({2, 0, 1})
        .contiguous();
  }
  const at::Tensor at = padded_positions(layout);
  const at::Tensor bucket = of_distances(at.unsqueeze(1).sub(at.unsqueeze(2)));
  return at::embedding(weight, beside(bucket, weight))
      .permute({0, 3, 1, 2})
      .contiguous();
}

at::Tensor RelativeBuckets::bias(const at::Tensor& weight,
                                 const Layout& queries,
                                 const Layout& keys) const {
  at::Tensor query = padded_positions(queries), key = padded_positions(keys);
  const bool alike =
      keys.uniform && keys.contiguous_positions && queries.uniform;
  if (alike) {
    query = query.narrow(0, 0, 1);
    key = key.narrow(0, 0, 1);
  }
  const at::Tensor bucket =
      of_distances(key.unsqueeze(1).sub(query.unsqueeze(2)));
  const at::Tensor bias = at::embedding(weight, beside(bucket, weight))
                              .permute({0, 3, 1, 2})
                              .contiguous();
  return alike ? bias.squeeze(0) : bias;
}

std::function<at::Tensor(const at::Tensor&)> RelativeBuckets::gradient(
    const Layout& layout) {
  at::Tensor bucket_of;
  if (layout.contiguous_positions) {
    bucket_of = of_length(layout.max_length).contiguous();
  } else {
    const at::Tensor at = padded_positions(layout);
    bucket_of = of_distances(at.unsqueeze(1).sub(at.unsqueeze(2))).contiguous();
  }
  return [bucket_of, buckets = buckets_](const at::Tensor& grad) {
    const at::Tensor g = grad.contiguous();
    const std::int64_t batch = g.size(0), heads = g.size(1);
    const std::int64_t cells = g.size(2) * g.size(3);
    at::Tensor out = at::zeros({batch, buckets, heads}, g.options());
    if (plain_twin(g)) {
      const std::int64_t shared = bucket_of.dim() == 3 ? batch : 1;
      return out.scatter_add_(1,
                              beside(bucket_of, g)
                                  .view({shared, cells, 1})
                                  .expand({batch, cells, heads}),
                              g.view({batch, heads, cells}).transpose(1, 2));
    }
    const auto* bucket = bucket_of.const_data_ptr<std::int64_t>();
    const auto* from = g.const_data_ptr<float>();
    auto* to = out.mutable_data_ptr<float>();
    for (std::int64_t b = 0; b < batch; ++b, to += buckets * heads) {
      const auto* of = bucket_of.dim() == 3 ? bucket + b * cells : bucket;
      for (std::int64_t h = 0; h < heads; ++h, from += cells) {
        for (std::int64_t i = 0; i < cells; ++i)
          to[of[i] * heads + h] += from[i];
      }
    }
    return out;
  };
}

}  // namespace thinwire
