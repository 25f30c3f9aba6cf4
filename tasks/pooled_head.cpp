#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/pooled_head.h"

#include <vector>

#include "base/error.h"
#include "ops/dropout.h"

namespace thinwire {
namespace {

constexpr std::string_view kSite = "classifier";

int add_slot(Backbone& backbone, TensorSource& source, TensorSource& random,
             const char* name, const std::vector<std::int64_t>& shape,
             const Init& init) {
  at::Tensor value = source.get({name}, shape, init, /*required=*/false);
  if (!value.defined()) value = random.get({name}, shape, init);
  return backbone.parameters().add(name, std::move(value), /*head=*/true);
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
  const int weight = add_slot(
      backbone, source, *random, "classifier.weight", {outputs, config.d_model},
      {Init::Kind::kNormal, static_cast<float>(config.initializer_range)});
  const int bias = add_slot(backbone, source, *random, "classifier.bias",
                            {outputs}, {Init::Kind::kZeros, 0});
  site_ = backbone.add_head_linear(std::string(kSite), weight, bias,
                                   config.d_model, outputs);
}

at::Tensor PooledHead::forward(Backbone& backbone, const BackboneInput& in,
                               const ForwardContext& outer) const {
  THINWIRE_ASSERT(site_ >= 0, "add_head() was not called");
  const BackboneOutput out = backbone.forward(in, outer);
  at::Tensor x = backbone.pooled(out, outer);
  const Layout layout = pooled_layout(out.layout);
  ForwardContext ctx = outer;
  ctx.layout = &layout;
  if (ctx.training) {
    static const std::uint32_t kDropout = dropout_site("classifier.dropout");
    x = dropout(x, backbone.config().classifier_dropout,
                ctx.dropout_key(kDropout), layout);
  }
  return backbone.linear(site_, x, ctx);
}

}  // namespace thinwire
