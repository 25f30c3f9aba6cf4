#include "peft/method_tools.h"

#include <ATen/ops/empty.h>
#include <fnmatch.h>

#include <algorithm>

#include "base/error.h"
#include "base/nearest.h"
#include "base/random.h"

namespace thinwire {

std::string config_text(std::string_view id, const Config& config) {
  Config out = {{"method", id}};
  out.update(config);
  return out.dump();
}

std::vector<std::string> string_list(const Config& value) {
  if (value.is_null()) return {};
  return value.get<std::vector<std::string>>();
}

bool matches_any(std::string_view name,
                 const std::vector<std::string>& patterns) {
  const std::string text(name);
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& pattern) {
                       if (pattern.find_first_of("*?[") == std::string::npos) {
                         return text.find(pattern) != std::string::npos;
                       }
                       return fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
                     });
}

void check_patterns(std::string_view method, const Backbone& backbone,
                    const std::vector<std::string>& patterns) {
  const Parameters& p = backbone.parameters();
  for (const std::string& pattern : patterns) {
    bool used = false;
    std::vector<std::string> names;
    for (int i = 0; i < p.size(); ++i) {
      names.push_back(p.slot(i).name);
      used = used || matches_any(names.back(), {pattern});
    }
    if (!used) {
      fail<UsageError>("{}: pattern '{}' matches no tensor; nearest: '{}'",
                       method, pattern, nearest(pattern, names));
    }
  }
}

std::vector<int> query_value_sites(const Backbone& backbone,
                                   std::string_view method) {
  std::vector<std::string> usual = {"query", "value"};
  const std::string& architecture = backbone.config().architecture;
  if (architecture == "bart") usual = {"q_proj", "v_proj"};
  if (architecture == "gpt2") usual = {"c_attn"};
  if (architecture == "t5") usual = {"q", "v"};
  return match_linear_sites(backbone, usual, method);
}

std::vector<int> target_sites(const Backbone& backbone,
                              const std::vector<std::string>& targets,
                              std::string_view method) {
  return targets.empty() ? query_value_sites(backbone, method)
                         : match_linear_sites(backbone, targets, method);
}

int decay_group(DeltaBuilder& builder, std::size_t dimensions,
                double lr_factor) {
  if (dimensions >= 2) {
    return builder.group({.name = "default", .lr_factor = lr_factor});
  }
  return builder.group(
      {.name = "no_decay", .lr_factor = lr_factor, .weight_decay_factor = 0});
}

void declare_dense(DeltaBuilder& builder, std::string name,
                   at::Tensor initial) {
  const int group =
      decay_group(builder, static_cast<std::size_t>(initial.dim()));
  declare_dense(builder, std::move(name), std::move(initial), group);
}

void declare_dense(DeltaBuilder& builder, std::string name, at::Tensor initial,
                   int group) {
  DeltaEntry e;
  e.name = std::move(name);
  e.shape = initial.sizes().vec();
  e.group = group;
  builder.add(std::move(e), std::move(initial));
}

at::Tensor normal_values(std::string_view name,
                         const std::vector<std::int64_t>& shape, double std,
                         std::uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kFloat);
  fill_normal(out.mutable_data_ptr<float>(), out.numel(), seed, name,
              static_cast<float>(std));
  return out;
}

at::Tensor uniform_values(std::string_view name,
                          const std::vector<std::int64_t>& shape, double bound,
                          std::uint64_t seed) {
  at::Tensor out = at::empty(shape, at::kFloat);
  const auto b = static_cast<float>(bound);
  fill_uniform(out.mutable_data_ptr<float>(), out.numel(), seed, name, -b, b);
  return out;
}

std::pair<int, Site> prompt_site(const Backbone& backbone, std::int64_t length,
                                 std::string_view method) {
  const std::int64_t most = backbone.config().max_positions;
  if (most > 0 && length >= most) {
    fail<UsageError>(
        "{}: a prompt of {} leaves no room for text: this {} takes {} tokens",
        method, length, backbone.config().architecture, most);
  }
  const auto& sites = backbone.sites();
  const auto it = std::ranges::find(sites, SiteKind::kEmbedding, &Site::kind);
  THINWIRE_ASSERT(it != sites.end(), "a backbone without embeddings");
  return {static_cast<int>(it - sites.begin()), *it};
}

std::int64_t prompt_place(const Backbone& backbone) {
  const ModelConfig& c = backbone.config();
  return c.decoder_layers == 0 && !c.decoder_only ? 1 : 0;
}

void declare_slot(DeltaBuilder& builder, const Backbone& backbone, int slot) {
  const auto dimensions = backbone.parameters().slot(slot).frozen.dim();
  declare_slot(builder, backbone, slot,
               decay_group(builder, static_cast<std::size_t>(dimensions)));
}

void declare_slot(DeltaBuilder& builder, const Backbone& backbone, int slot,
                  int group, at::Tensor initial) {
  const Parameters::Slot& s = backbone.parameters().slot(slot);
  DeltaEntry e;
  e.name = e.target = s.name;
  e.shape = s.frozen.sizes().vec();
  e.group = group;
  e.head = s.head;
  if (!initial.defined()) initial = backbone.parameters().initial(slot);
  builder.add(std::move(e), initial.to(at::kFloat));
}

void declare_head(DeltaBuilder& builder, const Backbone& backbone) {
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    if (p.slot(i).head && !builder.trains(p.slot(i).name)) {
      declare_slot(builder, backbone, i);
    }
  }
}

bool is_layer_norm(std::string_view slot_name) {
  return slot_name.find("LayerNorm") != std::string_view::npos ||
         slot_name.find("layer_norm") != std::string_view::npos ||
         slot_name.find("layernorm") != std::string_view::npos ||
         slot_name.find(".ln_") != std::string_view::npos;
}

bool is_embedding(std::string_view slot_name) {
  constexpr std::string_view kTables[] = {
      "shared.",       "relative_attention_bias.",
      "embed_tokens.", "embed_positions.",
      "_embeddings.",  ".wte.",
      ".wpe."};
  return std::ranges::any_of(kTables, [&](std::string_view table) {
    return slot_name.find(table) != std::string_view::npos;
  });
}

void declare_layer_norms(DeltaBuilder& builder, const Backbone& backbone) {
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    if (!p.slot(i).head && is_layer_norm(p.slot(i).name)) {
      declare_slot(builder, backbone, i);
    }
  }
}

at::Tensor& merged_weight(MergedSlots& merged, const Backbone& backbone,
                          int slot) {
  const auto it =
      std::find_if(merged.begin(), merged.end(),
                   [&](const auto& item) { return item.first == slot; });
  if (it != merged.end()) return it->second;
  const at::Tensor now = backbone.parameters().get(slot, {}).detach();
  merged.emplace_back(slot, now.to(at::kFloat, /*non_blocking=*/false,
                                   /*copy=*/true));
  return merged.back().second;
}

at::Tensor own_weight(MergedSlots& merged, const Backbone& backbone,
                      const Site& site, std::string_view method) {
  const Parameters::Slot& slot = backbone.parameters().slot(site.weight);
  if (slot.name != site.name + ".weight") {
    fail<UsageError>(
        "{}: {} shares its weight with {}, so its change cannot be merged",
        method, site.name, slot.name);
  }
  return out_in(merged_weight(merged, backbone, site.weight), slot.axes);
}

void merge_targets(MergedSlots& merged, const Backbone& backbone,
                   const Delta& delta) {
  for (const DeltaEntry& e : delta.entries()) {
    if (e.target.empty()) continue;
    merged_weight(merged, backbone, backbone.parameters().require(e.target));
  }
}

}  // namespace thinwire
