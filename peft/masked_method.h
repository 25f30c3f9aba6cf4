// Methods that train some of the backbone's own numbers, chosen once by a score
// and the same everywhere: k = floor(density * all numbers) are the best of
// everything but the task head, which trains whole and counts inside k unless
// count_head_in_budget says otherwise. Ties go to the lower flat position,
// tensors in the backbone's order. Only the k numbers and their optimizer state
// are ever stored.
// Workers with masks of their own (Sung et al. 2021, sec. 4.2): of the P k best
// numbers, worker w moves those of ranks w, w + P, w + 2 P, …; the head belongs
// to all.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "peft/mask_schedule.h"
#include "peft/mask_selection.h"
#include "peft/method_tools.h"

namespace thinwire {

// Fields of such methods: the first five are everyone's, a method has of the
// others those that mean something to it.
namespace mask_fields {
inline constexpr Field kDensity = {
    "density", FieldType::kFloat, "0.005",
    "share of all numbers that train, at most 9 digits after the point"};
inline constexpr Field kExclude = {
    "exclude", FieldType::kStrings, "~",
    "tensors that stay frozen: parts of names, or globs over whole names"};
inline constexpr Field kCountHead = {
    "count_head_in_budget", FieldType::kBool, "true",
    "the head's numbers count against density"};
inline constexpr Field kTrainHead = {"train_head", FieldType::kBool, "true",
                                     "the task head trains too"};
inline constexpr Field kQuota = {
    "quota", FieldType::kString, "global",
    "global: the best of all tensors; tensor: of each, as its size"};
inline constexpr Field kMaskFile = {
    "mask_file", FieldType::kString, "~",
    "a delta whose mask is used instead of scoring"};
inline constexpr Field kWarmupSteps = {
    "warmup_steps", FieldType::kInt, "0",
    "steps in which everything trains, before the mask is drawn"};
inline constexpr Field kRemaskEvery = {
    "remask_every", FieldType::kInt, "0",
    "steps after which the mask is drawn anew; 0: never"};
inline constexpr Field kRemaskUntil = {
    "remask_until", FieldType::kInt, "0",
    "the last step at which it may be; 0: the run's"};
inline constexpr Field kDensityStart = {
    "density_start", FieldType::kFloat, "~",
    "density of the first mask, from which it goes to density by remask_until, "
    "fast and then slowly"};
}  // namespace mask_fields

class MaskedMethod : public Method {
 public:
  std::string_view id() const override { return id_; }
  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override;
  void attach(Backbone&, const Delta&) override {}
  std::optional<std::int64_t> next_boundary(std::int64_t step) const override {
    return schedule_.next(step);
  }
  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override;
  bool mergeable() const override { return true; }

 protected:
  // Entries are named prefix.TENSOR. Everything trains for the number of steps
  // in field `dense`. Throws UsageError for values out of range.
  MaskedMethod(std::string_view id, std::string_view prefix, Config config,
               Extreme keep = Extreme::kLargest,
               std::string_view dense = mask_fields::kWarmupSteps.name);

  // Of each number of the slots, fp32, finite and not negative, in the CPU's
  // memory; called on every rank alike.
  virtual std::vector<at::Tensor> score(const Backbone& backbone,
                                        std::span<const int> slots,
                                        const DeclareContext& context) = 0;
  // Whether a slot of the backbone, no head and no buffer, competes; excluded
  // ones never do.
  virtual bool competes(const Parameters::Slot&) const { return true; }
  // What trains until the mask is drawn: of each slot all numbers.
  virtual void declare_whole(DeltaBuilder& builder, const Backbone& backbone,
                             std::span<const int> slots) const;
  virtual void declare_heads(DeltaBuilder& builder, const Backbone& backbone,
                             const DeclareContext& context) const;
  // Where the chosen numbers of a slot begin, fp32 [k]: where they are.
  virtual at::Tensor start(const Backbone& backbone, int slot,
                           const at::Tensor& index,
                           const DeclareContext& context) const;
  // Throws UsageError where scores do not tell k numbers apart from the rest;
  // by default they do unless all are 0.
  virtual void check_scores(std::span<const at::Tensor> scores, std::int64_t k,
                            const DeclareContext& context) const;

  void at_least(std::string_view field, std::int64_t value,
                std::int64_t low) const;
  const Config& config() const { return config_; }
  std::int64_t dense_steps() const { return schedule_.options().dense_steps; }

 private:
  struct Mask {
    std::vector<at::Tensor> index;  // of each slot
    std::vector<at::Tensor> owner;  // int32, of each slot; none: no owners
  };

  std::string entry_name(const Parameters::Slot& slot) const {
    return prefix_ + "." + slot.name;
  }
  std::vector<int> body(const Backbone& backbone) const;
  std::int64_t budget(const Backbone& backbone,
                      std::span<const std::int64_t> sizes, double density,
                      int workers) const;
  MaskSchedule::Options read_schedule(std::string_view dense) const;
  Mask draw(const Backbone& backbone, std::span<const int> slots,
            const DeclareContext& context);
  // At the boundary of another method.
  Mask kept(const Backbone& backbone, std::span<const int> slots,
            const Delta& current) const;
  void declare_masked(DeltaBuilder& builder, const Backbone& backbone, int slot,
                      const at::Tensor& index,
                      const DeclareContext& context) const;
  // 0 where the method has no such field.
  std::int64_t steps_of(std::string_view field) const;

  std::string id_, prefix_;
  Config config_;
  Extreme keep_;
  Quota quota_;
  std::vector<std::string> exclude_;
  bool head_in_budget_, train_head_;
  std::string mask_file_;
  MaskSchedule schedule_;
};

}  // namespace thinwire
