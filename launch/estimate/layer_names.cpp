#include "launch/estimate/layer_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace thinwire {

LayerNames::LayerNames(const Backbone& backbone) {
  const bool two = backbone.config().decoder_layers > 0;
  for (const Site& site : backbone.sites()) {
    if (site.layer < 0) continue;
    const auto at = site.name.find(fmt::format(".{}.", site.layer));
    if (at == std::string::npos) continue;
    const std::string_view text = std::string_view(site.name).substr(0, at + 1);
    if (std::ranges::find(prefixes_, text, &Prefix::text) == prefixes_.end()) {
      prefixes_.push_back(
          {std::string(text), two && site.stack == Stack::kDecoder});
    }
  }
}

std::optional<LayerPlace> LayerNames::numbered(const Prefix& prefix,
                                               std::string_view name,
                                               std::size_t at) {
  const std::string_view rest = name.substr(at);
  int layer = 0;
  const auto [end, error] =
      std::from_chars(rest.data(), rest.data() + rest.size(), layer);
  if (error != std::errc()) return std::nullopt;
  return LayerPlace{prefix.decoder, layer, name.substr(0, at),
                    rest.substr(static_cast<std::size_t>(end - rest.data()))};
}

std::optional<LayerPlace> LayerNames::find(std::string_view name) const {
  for (const Prefix& prefix : prefixes_) {
    const std::size_t at = name.find(prefix.text);
    if (at == std::string_view::npos || (at > 0 && name[at - 1] != '.')) {
      continue;
    }
    auto place = numbered(prefix, name, at + prefix.text.size());
    if (place && !place->after.empty()) return place;
  }
  return std::nullopt;
}

std::optional<LayerPlace> LayerNames::find_beside(std::string_view name) const {
  for (const Prefix& prefix : prefixes_) {
    const std::string_view layers = prefix.text;  // STACK.KIND.
    const std::size_t stack = layers.rfind('.', layers.size() - 2) + 1;
    if (!name.starts_with(layers.substr(0, stack)) ||
        name.starts_with(layers)) {
      continue;
    }
    const std::size_t kind = name.find('.', stack);
    if (kind == std::string_view::npos) continue;
    if (auto place = numbered(prefix, name, kind + 1)) return place;
  }
  return std::nullopt;
}

std::string LayerNames::in_layer(const LayerPlace& place, int layer) {
  return fmt::format("{}{}{}", place.before, layer, place.after);
}

}  // namespace thinwire
