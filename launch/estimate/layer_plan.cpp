#include "launch/estimate/layer_plan.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <set>
#include <string>

#include "launch/estimate/layer_names.h"

namespace thinwire {
namespace {

// Kinds of layers of a stack that are measured beside its base.
constexpr std::size_t kKinds = 4;

// What tells layers apart, by names without their numbers: what trains in them,
// and what stands beside them.
using Tensors = std::set<std::string>;

std::size_t differences(const Tensors& a, const Tensors& b) {
  std::vector<std::string> out;
  std::ranges::set_symmetric_difference(a, b, std::back_inserter(out));
  return out.size();
}

// Layers alike, beside the base.
struct Kind {
  const Tensors* tensors;
  bool reached;  // by backward
  std::vector<int> layers;
};

std::vector<StackPlan::More> measured(std::vector<Kind> kinds) {
  std::ranges::stable_sort(kinds, std::greater{},
                           [](const Kind& k) { return k.layers.size(); });
  std::vector<StackPlan::More> out;
  for (std::size_t i = 0; i < kinds.size(); ++i) {
    const auto times = std::ssize(kinds[i].layers);
    if (i < kKinds) {
      out.push_back({kinds[i].layers.front(), times});
      continue;
    }
    std::size_t nearest = 0;
    for (std::size_t k = 1; k < kKinds; ++k) {
      const auto cost = [&](const Kind& other) {
        return std::pair(other.reached != kinds[i].reached,
                         differences(*other.tensors, *kinds[i].tensors));
      };
      if (cost(kinds[k]) < cost(kinds[nearest])) nearest = k;
    }
    out[nearest].times += times;
  }
  return out;
}

StackPlan plan_stack(const std::vector<Tensors>& layers) {
  StackPlan plan;
  const int n = static_cast<int>(layers.size());
  if (n == 0) return plan;
  const auto first =
      std::ranges::find_if(layers, [](const Tensors& t) { return !t.empty(); });
  // The lowest that trains; what is below it, backward may never reach. The
  // last is where memory is highest.
  const int lowest =
      first == layers.end() ? 0 : static_cast<int>(first - layers.begin());
  for (const int layer : std::set{0, lowest, n - 1}) plan.base.push_back(layer);
  std::vector<Kind> kinds;
  for (int i = 0; i < n; ++i) {
    plan.like.push_back(i < lowest ? 0 : i > lowest ? n - 1 : i);
    if (std::ranges::binary_search(plan.base, i)) continue;
    const bool reached = i > lowest;
    const Tensors& tensors = layers[static_cast<std::size_t>(i)];
    auto kind = std::ranges::find_if(kinds, [&](const Kind& k) {
      return k.reached == reached && *k.tensors == tensors;
    });
    if (kind == kinds.end()) {
      kind = kinds.insert(kinds.end(), {&tensors, reached, {}});
    }
    kind->layers.push_back(i);
  }
  plan.more = measured(std::move(kinds));
  return plan;
}

StackPlan whole_stack(std::int64_t layers) {
  StackPlan plan;
  plan.base.resize(static_cast<std::size_t>(layers));
  std::iota(plan.base.begin(), plan.base.end(), 0);
  plan.like = plan.base;
  return plan;
}

}  // namespace

std::vector<int> StackPlan::with(int layer) const {
  std::vector<int> out = base;
  out.insert(std::ranges::upper_bound(out, layer), layer);
  return out;
}

LayerPlan plan_layers(const Backbone& backbone, const Delta& delta) {
  const ModelConfig& c = backbone.config();
  std::vector<Tensors> encoder(static_cast<std::size_t>(c.layers));
  std::vector<Tensors> decoder(static_cast<std::size_t>(c.decoder_layers));
  const LayerNames names(backbone);
  for (const DeltaEntry& e : delta.entries()) {
    const std::string& name = e.target.empty() ? e.name : e.target;
    const auto inside = names.find(name);
    const auto place = inside ? inside : names.find_beside(name);
    if (!place) continue;
    auto& stack = place->decoder ? decoder : encoder;
    stack.at(static_cast<std::size_t>(place->layer))
        .emplace(inside ? place->after : place->before);
  }
  return {plan_stack(encoder), plan_stack(decoder)};
}

LayerPlan all_layers(const Backbone& backbone) {
  const ModelConfig& c = backbone.config();
  return {whole_stack(c.layers), whole_stack(c.decoder_layers)};
}

}  // namespace thinwire
