// Whole modules of few numbers, each at one site: what a structure is made of
// and what a search chooses from.
// Hu et al. 2022, "Sparse structure search for delta tuning", sec. 3.
//   kLora     y + s B (A x)   at a linear layer: A [r, d_in], B [d_out, r]
//   kAdapter  u + f(u)        behind a sublayer: f(u) = up(act(down(u))), both
//                             maps of low rank (peft/projection.h)
//   kBias     y + b           at a linear layer or a norm: b [d_out]
//   kGain     y + g * n(x)    at a norm, n(x) its input normed: g [d]
// Each starts as nothing at all.
// Differs from the released code, whose adapters start with both maps at random
// and read u before its dropout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "peft/delta.h"
#include "peft/gate.h"
#include "peft/method_tools.h"

namespace thinwire {

enum class ModuleKind { kLora, kAdapter, kBias, kGain };
inline constexpr ModuleKind kModuleKinds[] = {
    ModuleKind::kLora, ModuleKind::kAdapter, ModuleKind::kBias,
    ModuleKind::kGain};
std::string_view name_of(ModuleKind kind);  // lora, adapter, bias, gain

// The same for all modules of a kind.
struct ModuleSizes {
  std::int64_t r = 1;
  double alpha = 16;  // s = alpha / r
  double reduction_factor = 32;
  std::int64_t adapter_rank = 1;
  std::string non_linearity = "gelu_new";
};

struct DeltaModule {
  ModuleKind kind;
  int site;
};

// Whether such a module can stand there at all; heads take none.
bool takes(ModuleKind kind, const Site& site);
// Linear modules, sublayers, … for messages.
std::string_view sites_of(ModuleKind kind);
// Where the paper's search looks: linear layers of self-attention and
// feed-forward, these sublayers, every norm.
bool in_space(ModuleKind kind, const Site& site);

class ModuleFactory {
 public:
  // method: for messages. Throws UsageError for sizes out of range.
  ModuleFactory(std::string_view method, const ModuleSizes& sizes);

  // Numbers that the module has. Throws UsageError where reduction_factor
  // leaves it none.
  std::int64_t count(const Backbone& backbone, const DeltaModule& m) const;
  // gated: it can be attached with a gate. Else what the model has a tensor
  // for, a norm's gain or a bias, is that tensor itself.
  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeltaModule& m, std::uint64_t seed, bool gated) const;
  void attach(Backbone& backbone, const Delta& delta,
              const DeltaModule& m) const;
  void attach(Backbone& backbone, const Delta& delta, const DeltaModule& m,
              const Gate& gate) const;
  // Of what was declared without a gate; targets are merge_targets()'. Throws
  // UsageError.
  void merge(const Backbone& backbone, const Delta& delta, const DeltaModule& m,
             MergedSlots& slots) const;

 private:
  const Site& site(const Backbone& backbone, const DeltaModule& m) const;
  std::int64_t width(const Site& site) const;  // an adapter's
  void put(Backbone& backbone, const Delta& delta, const DeltaModule& m,
           const Gate& gate) const;

  std::string_view method_;
  ModuleSizes sizes_;
};

}  // namespace thinwire
