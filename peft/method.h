// A parameter-efficient method: what it adds to the delta, and what it puts at
// a backbone's sites. One file per method in peft/methods/, one line in
// peft/methods.def, one golden test.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/field.h"
#include "models/backbone.h"
#include "peft/delta.h"

namespace thinwire {

// What a method may ask of the run while it decides what trains; implemented
// by dist/. Calls block on all ranks and are made by all ranks alike.
class Scoring {
 public:
  virtual ~Scoring() = default;
  enum class Labels { kData, kModel };  // empirical / true Fisher
  // One batched pass: the weight of each sequence's own loss, and what runs
  // backward on their sum; called once.
  using Visit = std::function<void(std::span<const double> weights,
                                   const std::function<void()>& backward)>;
  // For this rank's share of the first `samples` examples of the scoring order
  // (data seed, Purpose::kScore), a batch at a time: runs it, in evaluation
  // mode, through the backbone with whatever asks for gradients, then calls
  // `visit`. kData: once per batch, weights 1. kModel: once per outcome c,
  // weights p(c | x), label c (text: one outcome drawn from the model).
  virtual void for_each_batch(std::int64_t samples, Labels labels,
                              const Visit& visit) = 0;
  // The same one example at a time: gradients of each one's own.
  virtual void for_each_example(std::int64_t samples, Labels labels,
                                const Visit& visit) = 0;
  // What the examples run through. Before anything is attached, a method may
  // put itself there while it scores.
  virtual Backbone& backbone() = 0;
  // Sums fp32 tensors over all ranks, in bounded slices.
  virtual void sum_over_ranks(std::span<at::Tensor> tensors) = 0;
  // Progress for the user, rank 0 only; message-rate is limited by the run.
  virtual void progress(std::string_view what, std::int64_t done,
                        std::int64_t of) = 0;
};

// What declare() may look at besides the backbone.
struct DeclareContext {
  std::uint64_t seed = 1;  // of initial values and random masks
  std::int64_t step = 0;   // of the run, when the phase begins
  // Above 1: each worker moves a share of its own, as large as the whole would
  // be for one. A method that deals shares out declares their union, with
  // owner_constant(); any other declares what it always does.
  int workers = 1;
  Scoring* scoring = nullptr;  // null: only counts are wanted (`inspect`);
                               // a method that must score then declares a
                               // layout of the right sizes
  // What trained until now, at a boundary that rewinds; else null. The frozen
  // weights are those of the start meanwhile.
  const Delta* ended = nullptr;
  // What trained until now, and is attached still; null: nothing did.
  const Delta* current = nullptr;
  // Tensors of a method's own as they begin, without a mask inside.
  bool whole = false;
};

class Method {
 public:
  virtual ~Method() = default;
  virtual std::string_view id() const = 0;
  // Adds entries, constants and buffers. The same on every rank. Throws
  // UsageError for what does not fit this backbone (no such target module …).
  virtual void declare(DeltaBuilder& builder, const Backbone& backbone,
                       const DeclareContext& context) = 0;
  // Puts modules that read the delta's leaves at the backbone's sites. Entries
  // with a target need nothing here: Delta::bind has done it. Works from a
  // loaded delta just as from a declared one.
  virtual void attach(Backbone& backbone, const Delta& delta) = 0;
  // The first step after `step` at which this method wants its layout declared
  // anew (end of a dense warm-up, a re-masking); none: never.
  virtual std::optional<std::int64_t> next_boundary(std::int64_t step) const {
    return std::nullopt;
  }
  // The first of these after `step` at which everything returns to what it was
  // at the start of the run, optimizer and schedule too: the phase that ends
  // leaves nothing but what methods make of DeclareContext::ended.
  virtual std::optional<std::int64_t> next_rewind(std::int64_t step) const {
    return std::nullopt;
  }
  // What the method adds to the mean loss of a step: a function of the delta's
  // values alone, whose gradient, times `scale`, is added to delta.grads().
  // Called once a step, on every rank alike, when the gradient of all ranks and
  // micro-batches is there, with their summed loss weight as scale.
  virtual double add_penalty(Delta& delta, double scale) const { return 0; }
  // The same method on a model that has only these layers of the backbone, by
  // their numbers, ascending. Null: its config names no layers.
  virtual std::unique_ptr<Method> on_layers(
      std::span<const int> encoder, std::span<const int> decoder) const {
    return nullptr;
  }
  // Weight of each merged slot as a plain tensor: `merge` and HF export. Adds
  // into the maps' tensors; throws UsageError where the method cannot merge.
  virtual void merge(const Backbone& backbone, const Delta& delta,
                     std::vector<std::pair<int, at::Tensor>>& slots) const {}
  virtual bool mergeable() const { return false; }
};

using Config = nlohmann::ordered_json;  // every field present, defaults filled

struct MethodInfo {
  std::string_view id;
  std::string_view about;  // one line, with the paper
  std::span<const Field> fields;
  // Throws UsageError for values out of range, as `lora: r must be …`.
  std::unique_ptr<Method> (*make)(const Config& config);
};

std::span<const MethodInfo> methods();
// Throws UsageError listing all ids, the nearest first.
const MethodInfo& find_method(std::string_view id);
// Defaults from the fields filled in, unknown keys refused (nearest named).
std::unique_ptr<Method> make_method(std::string_view id, const Config& given);

// `target_modules`: HF peft's rule. A list matches a module whose name equals
// an item or ends in "." + item; "all-linear" is every linear site but heads.
std::vector<int> match_linear_sites(const Backbone& backbone,
                                    std::span<const std::string> targets,
                                    std::string_view method);

}  // namespace thinwire
