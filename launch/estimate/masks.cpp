#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/estimate/masks.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "launch/estimate/layer_names.h"

namespace thinwire {
namespace {

// Of a tensor of the backbone; masks inside methods' own are as declared.
bool masked(const DeltaEntry& e) {
  return e.kind == EntryKind::kMasked && !e.target.empty();
}

// What the small model calls a tensor of the whole one; none: it has none.
std::optional<std::string> small_name(const std::string& target,
                                      const LayerNames& names,
                                      const ChosenLayers& chosen) {
  const auto place = names.find(target);
  if (!place) return target;
  const auto& layers = place->decoder ? chosen.decoder : chosen.encoder;
  const auto at = std::ranges::find(layers, place->layer);
  if (at == layers.end()) return std::nullopt;
  return LayerNames::in_layer(*place, static_cast<int>(at - layers.begin()));
}

}  // namespace

Delta with_masks_of(Delta declared, const Delta& whole, const Backbone& full,
                    const ChosenLayers& chosen) {
  if (std::ranges::none_of(whole.entries(), masked)) return declared;
  DeltaBuilder builder;
  for (const std::string& config : declared.method_configs()) {
    builder.method_config(config);
  }
  const LayerNames names(full);
  for (const DeltaEntry& e : whole.entries()) {
    if (!masked(e)) continue;
    const auto name = small_name(e.target, names, chosen);
    if (!name) continue;
    DeltaEntry mask = e;
    mask.name = "mask." + *name;
    mask.target = *name;
    mask.index = e.index.clone();
    mask.group =
        builder.group(whole.groups()[static_cast<std::size_t>(e.group)]);
    builder.add(std::move(mask), at::zeros({e.count}, at::kFloat));
  }
  for (std::size_t i = 0; i < declared.entries().size(); ++i) {
    const DeltaEntry& e = declared.entries()[i];
    if (masked(e)) continue;
    DeltaEntry dense = e;
    dense.group =
        builder.group(declared.groups()[static_cast<std::size_t>(e.group)]);
    builder.add(std::move(dense), declared.leaf(static_cast<int>(i)).detach());
  }
  for (const auto& [name, tensor] : declared.constants()) {
    builder.constant(name, tensor);
  }
  for (const auto& [name, buffer] : declared.buffers()) {
    builder.buffer(name, buffer.tensor, buffer.rule);
  }
  return builder.build();
}

}  // namespace thinwire
