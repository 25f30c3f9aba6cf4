#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/side_model.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "models/tensor_source.h"

namespace thinwire {
namespace {

// No memory is behind them.
class Shapes : public TensorSource {
 public:
  at::Tensor get(const std::vector<std::string>&,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    if (!required) return {};
    return at::empty(shape,
                     at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
  }
  bool contains(std::string_view) const override { return false; }
};

ModelConfig narrowed(const ModelConfig& wide, std::int64_t factor,
                     const SideLayers& layers) {
  ModelConfig narrow = wide;
  narrow.layers = std::ssize(layers.encoder);
  narrow.decoder_layers = std::ssize(layers.decoder);
  for (const auto width : {&ModelConfig::d_model, &ModelConfig::d_kv,
                           &ModelConfig::d_ff, &ModelConfig::decoder_d_ff}) {
    narrow.*width /= factor;
    if (narrow.*width > 0 || wide.*width == 0) continue;
    fail<UsageError>("lst: reduction_factor {} leaves nothing of a width of {}",
                     factor, wide.*width);
  }
  // T5's heads have a width of their own.
  for (const std::int64_t heads : {wide.heads, wide.decoder_heads}) {
    if (wide.architecture == "t5" || heads == 0) continue;
    if (narrow.d_model % heads == 0) continue;
    fail<UsageError>(
        "lst: reduction_factor {} leaves a width of {}, which {} heads do not "
        "divide",
        factor, narrow.d_model, heads);
  }
  narrow.vocab_size = 0;  // neither embeddings nor head
  narrow.max_positions = 0;
  return narrow;
}

// A layer of both models and of the delta, by what names begin with.
struct LayerNames {
  std::string side, wide, entry;
};

std::vector<LayerNames> layer_names(const Backbone& backbone,
                                    const Backbone& side,
                                    const SideLayers& layers) {
  std::vector<LayerNames> out;
  for (const Stack stack : {Stack::kEncoder, Stack::kDecoder}) {
    for (int i = 0; i < std::ssize(layers.of(stack)); ++i) {
      const int layer = layers.of(stack)[static_cast<std::size_t>(i)];
      out.push_back({layer_name(side, stack, i) + ".",
                     layer_name(backbone, stack, layer) + ".",
                     fmt::format("{}.side_block.{}.",
                                 stack_name(backbone, stack), layer)});
    }
  }
  return out;
}

std::vector<SideTensor> find_tensors(const Backbone& backbone,
                                     const Backbone& side,
                                     const SideLayers& layers) {
  const std::vector<LayerNames> places = layer_names(backbone, side, layers);
  const std::string end = ".final_layer_norm.";
  std::vector<SideTensor> out;
  for (int slot = 0; slot < side.parameters().size(); ++slot) {
    const std::string& name = side.parameters().slot(slot).name;
    const auto place = std::ranges::find_if(
        places,
        [&](const LayerNames& layer) { return name.starts_with(layer.side); });
    if (place == places.end()) {
      const std::size_t at = name.find(end);
      if (at == std::string::npos) continue;
      out.push_back({name.substr(0, at) + ".final_side_layer_norm." +
                         name.substr(at + end.size()),
                     slot, backbone.parameters().require(name)});
      continue;
    }
    const std::string rest = name.substr(place->side.size());
    int from = backbone.parameters().find(place->wide + rest);
    // The first layer of a stack has a table that the others do not.
    if (from < 0) from = backbone.parameters().require(name);
    out.push_back({place->entry + rest, slot, from});
  }
  return out;
}

}  // namespace

std::string layer_name(const Backbone& backbone, Stack stack, int layer) {
  const auto& sites = backbone.sites();
  const auto site = std::ranges::find_if(sites, [&](const Site& s) {
    return s.kind == SiteKind::kTap && s.role == Role::kNone &&
           s.stack == stack && s.layer == layer;
  });
  THINWIRE_ASSERT(site != sites.end(), "layer {} of stack {}", layer,
                  static_cast<int>(stack));
  return site->name;
}

std::string stack_name(const Backbone& backbone, Stack stack) {
  std::string name = layer_name(backbone, stack, 0);
  for (int i = 0; i < 2; ++i) name.resize(name.rfind('.'));
  return name;
}

SideModel make_side_model(const Backbone& backbone, std::int64_t factor,
                          const SideLayers& layers, TensorSource& source) {
  SideModel side;
  side.backbone =
      make_backbone(narrowed(backbone.config(), factor, layers), source);
  side.tensors = find_tensors(backbone, *side.backbone, layers);
  return side;
}

SideModel make_side_shapes(const Backbone& backbone, std::int64_t factor,
                           const SideLayers& layers) {
  Shapes shapes;
  return make_side_model(backbone, factor, layers, shapes);
}

}  // namespace thinwire
