#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/pooled_head.h"

#include <vector>

#include "base/error.h"
#include "ops/dropout.h"

namespace thinwire {
namespace {

int add_slot(Backbone& backbone, TensorSource& source, TensorSource& random,
             const std::string& name, const std::vector<std::int64_t>& shape,
             const Init& init) {
  at::Tensor value = source.get({name}, shape, init, /*required=*/false);
  if (!value.defined()) value = random.get({name}, shape, init);
  return backbone.parameters().add(name, std::move(value), /*head=*/true);
}

int add_layer(Backbone& backbone, TensorSource& source, TensorSource& random,
              const std::string& name, std::int64_t outputs) {
  const ModelConfig& config = backbone.config();
  const int weight = add_slot(
      backbone, source, random, name + ".weight", {outputs, config.d_model},
      {Init::Kind::kNormal, static_cast<float>(config.initializer_range)});
  const int bias = config.decoder_only
                       ? -1
                       : add_slot(backbone, source, random, name + ".bias",
                                  {outputs}, {Init::Kind::kZeros, 0});
  return backbone.add_head_linear(name, weight, bias, config.d_model, outputs);
}

}  // namespace

void PooledHead::add(Backbone& backbone, TensorSource& source,
                     std::int64_t outputs, std::uint64_t seed,
                     std::string_view kind) {
  const ModelConfig& config = backbone.config();
  if (config.decoder_layers > 0) {
    fail<UsageError>(
        "task.kind: {} needs an encoder with a pooler, {} is an "
        "encoder-decoder; cast the task as text_to_text",
        kind, config.architecture);
  }
  const auto random = random_source(seed);
  if (config.dense_head) {
    dense_ = add_layer(backbone, source, *random, "classifier.dense",
                       config.d_model);
  }
  last_ = add_layer(backbone, source, *random,
                    config.decoder_only ? "score"
                    : config.dense_head ? "classifier.out_proj"
                                        : "classifier",
                    outputs);
}

at::Tensor PooledHead::forward(Backbone& backbone, const BackboneInput& in,
                               const ForwardContext& outer) const {
  THINWIRE_ASSERT(last_ >= 0, "add_head() was not called");
  const BackboneOutput out = backbone.forward(in, outer);
  const Layout layout = pooled_layout(out.layout);
  ForwardContext ctx = outer;
  ctx.layout = &layout;
  const auto drop = [&](const at::Tensor& x, std::uint32_t site) {
    if (!ctx.training || backbone.config().decoder_only) return x;
    return dropout(x, backbone.config().classifier_dropout,
                   ctx.dropout_key(site), layout);
  };
  static const std::uint32_t kDropout = dropout_site("classifier.dropout");
  static const std::uint32_t kInner = dropout_site("classifier.dense.dropout");
  at::Tensor x = drop(backbone.pooled(out, outer), kDropout);
  if (dense_ >= 0) {
    x = drop(backbone.linear(dense_, x, ctx).tanh(), kInner);
  }
  return backbone.linear(last_, x, ctx);
}

}  // namespace thinwire
