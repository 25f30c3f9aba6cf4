// What the kinds of HF peft's folders share: file and key names, the keys that
// every adapter_config.json has, task heads, target modules. As peft 0.21
// writes them. Internal to peft/interop.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "peft/interop/format.h"

namespace thinwire {

inline constexpr std::string_view kPeftWeights = "adapter_model.safetensors";
// Before a module's path in the keys of methods that wrap modules. Heads of
// those that do not (prompts) have one `model.` less.
inline constexpr std::string_view kPeftWrapper = "base_model.model.";
inline constexpr std::string_view kPeftPromptWrapper = "base_model.";

// Whether the model's only stack predicts the next token.
bool is_causal(const Backbone& backbone);

// Keys that every kind has, and that change nothing or are read by all.
std::vector<std::string_view> peft_keys(
    std::initializer_list<std::string_view> own);

// The keys that every kind has, as written for this delta.
Json peft_config(const WriteContext& context, std::string_view type);

// The delta's head entries, stored under `wrapper` + their slot's name.
void add_peft_heads(std::vector<DiskTensor>& out, const Delta& delta,
                    const Backbone& backbone, std::string_view wrapper);

// A tensor `wrapper` + module + tail that is one entry; also read as saved from
// the bare base model, without the architecture's prefix.
DiskTensor peft_module_tensor(const DeltaEntry& entry,
                              const Backbone& backbone);

// Linear sites that a `target_modules` of peft's names: a list of ends of names
// of which some may match nothing, a regular expression, "all-linear".
// Throws UsageError when it names none.
std::vector<std::string> peft_targets(const Json& targets, std::string_view key,
                                      const Backbone& backbone);
// The shortest ends of names that name exactly these linear sites.
std::vector<std::string> short_targets(const std::vector<std::string>& modules,
                                       const Backbone& backbone);

// Keys that prompts and prefixes share, as written; and what they must say of a
// backbone that they fit: throws UsageError.
Json prompt_config(const WriteContext& context, std::string_view type,
                   std::int64_t length);
void check_prompt(const Json& config, const Backbone& backbone);
// How many times the vectors are stored: encoder-decoders have two sets.
std::int64_t prompt_copies(const Json& config);

// fan_in_fan_out: whether the weight of any of these modules lies [in, out].
bool lies_in_out(const std::vector<std::string>& modules,
                 const Backbone& backbone);

// A whole number as one: 8 and not 8.0.
Json plain_number(double value);

}  // namespace thinwire
