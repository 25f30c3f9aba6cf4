// The adapter family: f(z) = up(act(down(z))), put into the residual branch of
// sublayers. A preset says where it reads and by which maps; the rest is
// config.
//   kOutput     u + s f(u)              Houlsby et al. 2019
//   kNormedSum  u + s f(norm(x + u))    Pfeiffer et al. 2021
//   kResidual   u + s f(x)              He et al. 2022, parallel
// x the residual stream [T, d], u what the sublayer adds to it, after dropout.
#pragma once

#include <array>
#include <memory>
#include <string_view>

#include "peft/method.h"

namespace thinwire {

enum class AdapterInput { kOutput, kNormedSum, kResidual };

struct AdapterPreset {
  std::string_view id;
  AdapterInput input = AdapterInput::kOutput;
  // Where the config gives neither bottleneck nor reduction_factor.
  std::int64_t bottleneck = 0;
  double reduction_factor = 0;
  // The maps are peft/projection.h's; else matrices.
  bool hypercomplex = false;
};

// Defaults of a preset, as YAML.
struct AdapterDefaults {
  std::string_view non_linearity, self_attention, scaling = "1", layer_norms;
};

constexpr std::array<Field, 12> adapter_fields(const AdapterDefaults& d) {
  return {{
      {"bottleneck", FieldType::kInt, "~", "width m of the inner layer"},
      {"reduction_factor", FieldType::kFloat, "~",
       "instead: m = model width / factor"},
      {"non_linearity", FieldType::kString, d.non_linearity,
       "gelu, gelu_new, relu, sigmoid, swish or tanh"},
      {"self_attention", FieldType::kBool, d.self_attention,
       "one at self-attention as well as at the feed-forward layer"},
      {"cross_adapter", FieldType::kBool, "false",
       "one at cross-attention as well"},
      {"scaling", FieldType::kFloat, d.scaling, "s, of the adapter's output"},
      {"learn_scaling", FieldType::kBool, "false", "s trains, from scaling on"},
      {"dropout", FieldType::kFloat, "0", "behind the non-linearity"},
      {"drop_first", FieldType::kInt, "0",
       "no adapter in the first so many layers of each stack (AdapterDrop)"},
      {"robust_drop", FieldType::kInt, "0",
       "training leaves out the first n layers' adapters, n drawn anew each "
       "step from 0 to this (AdapterDrop, robust)"},
      {"layer_norms", FieldType::kBool, d.layer_norms,
       "the layer norms train too"},
      {"train_head", FieldType::kBool, "true", "the task head trains too"},
  }};
}

// Of presets with matrices.
constexpr std::array<Field, 2> matrix_fields(std::string_view init,
                                             std::string_view init_std) {
  return {{
      {"init", FieldType::kString, init,
       "normal: matrices with init_std; lora: the second matrix starts 0; "
       "biases start 0"},
      {"init_std", FieldType::kFloat, init_std, "of init: normal"},
  }};
}

// Of hypercomplex ones.
constexpr std::array<Field, 4> hypercomplex_fields(std::string_view n,
                                                   std::string_view rank,
                                                   std::string_view shared) {
  return {{
      {"phm_dim", FieldType::kInt, n,
       "n, how many Kronecker products are summed; divides both widths"},
      {"phm_rank", FieldType::kInt, rank,
       "of their second factors; 0: these are whole"},
      {"shared_rule", FieldType::kBool, shared,
       "one set of first factors for the whole model"},
      {"normed_input", FieldType::kBool, "false",
       "reads norm(x + u) as Pfeiffer's adapters do: AdapterHub's compacter++"},
  }};
}

// Two lists of fields, one after the other.
template <std::size_t N, std::size_t M>
constexpr std::array<Field, N + M> with(const std::array<Field, N>& a,
                                        const std::array<Field, M>& b) {
  std::array<Field, N + M> all{};
  for (std::size_t i = 0; i < N; ++i) all[i] = a[i];
  for (std::size_t i = 0; i < M; ++i) all[N + i] = b[i];
  return all;
}

// config: adapter_fields() with matrix_fields() or hypercomplex_fields(). Entry
// names are those of AdapterHub with `thinwire` as the adapter's name. Throws
// UsageError.
std::unique_ptr<Method> make_adapter_method(const AdapterPreset& preset,
                                            const Config& config);

}  // namespace thinwire
