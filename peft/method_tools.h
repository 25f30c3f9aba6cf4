// What several methods share: whole tensors as entries, heads, name patterns,
// merged weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "peft/method.h"

namespace thinwire {

using MergedSlots = std::vector<std::pair<int, at::Tensor>>;

// The config as it goes into the delta: {"method": id, fields…}.
std::string config_text(std::string_view id, const Config& config);

// Patterns of slot names: text with * ? or [ is a glob over the whole name,
// any other text matches anywhere in it. Null config values are no pattern.
std::vector<std::string> string_list(const Config& value);
bool matches_any(std::string_view name,
                 const std::vector<std::string>& patterns);
// Throws UsageError naming a pattern that matches no slot.
void check_patterns(std::string_view method, const Backbone& backbone,
                    const std::vector<std::string>& patterns);

// The query and value projections of every attention, HF peft's default targets
// of this architecture.
std::vector<int> query_value_sites(const Backbone& backbone,
                                   std::string_view method);
// The sites that `target_modules` names; those where it names none.
std::vector<int> target_sites(const Backbone& backbone,
                              const std::vector<std::string>& targets,
                              std::string_view method);

// Vectors and scalars (biases, gains) are not decayed, matrices are.
int decay_group(DeltaBuilder& builder, std::size_t dimensions,
                double lr_factor = 1);

// A dense entry of no slot's; by its dimensions decayed or not, or of `group`.
void declare_dense(DeltaBuilder& builder, std::string name, at::Tensor initial);
void declare_dense(DeltaBuilder& builder, std::string name, at::Tensor initial,
                   int group);

// Initial values, a function of seed and name: normal with `std`, uniform in
// [-bound, bound).
at::Tensor normal_values(std::string_view name,
                         const std::vector<std::int64_t>& shape, double std,
                         std::uint64_t seed);
at::Tensor uniform_values(std::string_view name,
                          const std::vector<std::int64_t>& shape, double bound,
                          std::uint64_t seed);

// The embedding site that takes a prompt of `length`: the encoder's, or the
// only one. Throws UsageError where the prompt leaves no room for text.
std::pair<int, Site> prompt_site(const Backbone& backbone, std::int64_t length,
                                 std::string_view method);
// EmbeddingAttachment::insert_at(): models that pool the first token (BERT)
// keep it first.
std::int64_t prompt_place(const Backbone& backbone);

// A dense entry for a whole slot, named as the slot; by its dimensions decayed
// or not, or of `group`. initial: what it begins from, undefined: the slot's
// own numbers.
void declare_slot(DeltaBuilder& builder, const Backbone& backbone, int slot);
void declare_slot(DeltaBuilder& builder, const Backbone& backbone, int slot,
                  int group, at::Tensor initial = {});
// Every head slot that nothing trains yet: methods that train the head may be
// combined.
void declare_head(DeltaBuilder& builder, const Backbone& backbone);

bool is_layer_norm(std::string_view slot_name);
// Tables that are looked up: words, positions, types, distances.
bool is_embedding(std::string_view slot_name);
// Every layer norm but heads'.
void declare_layer_norms(DeltaBuilder& builder, const Backbone& backbone);

// The weight of `slot` among `merged`: appended, as a copy of what the bound
// backbone uses now, when it is not there yet.
at::Tensor& merged_weight(MergedSlots& merged, const Backbone& backbone,
                          int slot);
// Of a linear site, as a view [out, in] however it lies. Throws UsageError
// where another module has the same weight, which would change with it.
at::Tensor own_weight(MergedSlots& merged, const Backbone& backbone,
                      const Site& site, std::string_view method);
// Every target of the delta's entries.
void merge_targets(MergedSlots& merged, const Backbone& backbone,
                   const Delta& delta);

}  // namespace thinwire
