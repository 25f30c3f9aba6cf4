// Which layer a tensor or site belongs to, by its name.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

struct LayerPlace {
  bool decoder = false;  // of two stacks; where there is one alone: false
  int layer = 0;         // within its stack
  std::string_view before, after;  // the number, in the name that was asked
};

class LayerNames {
 public:
  explicit LayerNames(const Backbone& backbone);

  // Of a name that begins as the backbone's own; none: outside the layers.
  std::optional<LayerPlace> find(std::string_view name) const;
  // Of what stands beside a layer and is named STACK.KIND.NUMBER as the layers
  // are, with another KIND.
  std::optional<LayerPlace> find_beside(std::string_view name) const;
  // The name that this tensor has in another layer.
  static std::string in_layer(const LayerPlace& place, int layer);

 private:
  struct Prefix {
    std::string text;  // up to the number
    bool decoder;
  };
  // The number that begins at `at`.
  static std::optional<LayerPlace> numbered(const Prefix& prefix,
                                            std::string_view name,
                                            std::size_t at);
  std::vector<Prefix> prefixes_;
};

}  // namespace thinwire
