#include "peft/masked_method.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "ops/reference.h"
#include "peft/kept_numbers.h"

namespace thinwire {

MaskedMethod::MaskedMethod(std::string_view id, std::string_view prefix,
                           Config config, Extreme keep, std::string_view dense)
    : id_(id),
      prefix_(prefix),
      config_(std::move(config)),
      keep_(keep),
      quota_(parse_quota(id, config_.at("quota").get<std::string>())),
      exclude_(string_list(config_.at("exclude"))),
      head_in_budget_(config_.at("count_head_in_budget").get<bool>()),
      train_head_(config_.at("train_head").get<bool>()),
      schedule_(id, read_schedule(dense)) {
  const std::string file(mask_fields::kMaskFile.name);
  if (!config_.contains(file) || config_.at(file).is_null()) return;
  mask_file_ = config_.at(file).get<std::string>();
  if (schedule_.options().every > 0) {
    fail<UsageError>(
        "{}: remask_every draws new masks, mask_file fixes one; leave one of "
        "them out",
        id_);
  }
}

void MaskedMethod::at_least(std::string_view field, std::int64_t value,
                            std::int64_t low) const {
  if (value >= low) return;
  fail<UsageError>("{}: {} must be at least {}, got {}", id_, field, low,
                   value);
}

std::int64_t MaskedMethod::steps_of(std::string_view field) const {
  const auto it = config_.find(std::string(field));
  if (it == config_.end()) return 0;
  const auto steps = it->get<std::int64_t>();
  at_least(field, steps, 0);
  return steps;
}

MaskSchedule::Options MaskedMethod::read_schedule(
    std::string_view dense) const {
  MaskSchedule::Options out{
      .dense_steps = steps_of(dense),
      .every = steps_of(mask_fields::kRemaskEvery.name),
      .until = steps_of(mask_fields::kRemaskUntil.name),
      .density = config_.at("density").get<double>(),
  };
  const auto start = config_.find(std::string(mask_fields::kDensityStart.name));
  if (start != config_.end() && !start->is_null()) {
    out.density_start = start->get<double>();
  }
  return out;
}

void MaskedMethod::declare(DeltaBuilder& builder, const Backbone& backbone,
                           const DeclareContext& context) {
  builder.method_config(config_text(id_, config_));
  check_patterns(id_, backbone, exclude_);
  const std::vector<int> slots = body(backbone);
  if (schedule_.dense(context.step)) {
    declare_whole(builder, backbone, slots);
  } else {
    const bool drawn =
        context.current == nullptr || schedule_.draws_at(context.step);
    const Mask mask = drawn ? draw(backbone, slots, context)
                            : kept(backbone, slots, *context.current);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      declare_masked(builder, backbone, slots[i], mask.index[i], context);
      if (mask.owner.empty() || mask.index[i].numel() == 0) continue;
      builder.constant(
          owner_constant(entry_name(backbone.parameters().slot(slots[i]))),
          mask.owner[i]);
    }
  }
  if (train_head_) declare_heads(builder, backbone, context);
}

void MaskedMethod::declare_whole(DeltaBuilder& builder,
                                 const Backbone& backbone,
                                 std::span<const int> slots) const {
  for (const int slot : slots) declare_slot(builder, backbone, slot);
}

void MaskedMethod::declare_heads(DeltaBuilder& builder,
                                 const Backbone& backbone,
                                 const DeclareContext&) const {
  declare_head(builder, backbone);
}

at::Tensor MaskedMethod::start(const Backbone& backbone, int slot,
                               const at::Tensor& index,
                               const DeclareContext&) const {
  const at::Tensor initial = backbone.parameters().initial(slot);
  return initial.view({-1})
      .index_select(0, beside(index, initial))
      .to(at::kFloat);
}

void MaskedMethod::check_scores(std::span<const at::Tensor> scores,
                                std::int64_t,
                                const DeclareContext& context) const {
  if (std::ranges::none_of(scores, [](const at::Tensor& s) {
        return s.numel() > 0 && s.any().item<bool>();
      })) {
    fail<UsageError>(
        "{}: every score is zero at step {}: there is nothing to choose by",
        id_, context.step);
  }
}

void MaskedMethod::merge(const Backbone& backbone, const Delta& delta,
                         MergedSlots& slots) const {
  merge_targets(slots, backbone, delta);
}

std::vector<int> MaskedMethod::body(const Backbone& backbone) const {
  std::vector<int> out;
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    const Parameters::Slot& s = p.slot(i);
    if (s.head || s.buffer || matches_any(s.name, exclude_)) continue;
    if (competes(s)) out.push_back(i);
  }
  return out;
}

std::int64_t MaskedMethod::budget(const Backbone& backbone,
                                  std::span<const std::int64_t> sizes,
                                  double density, int workers) const {
  const Parameters& p = backbone.parameters();
  const std::int64_t all = p.count(true);
  const std::int64_t head = train_head_ ? all - p.count(false) : 0;
  const std::int64_t share = exact_share(density, all);
  const std::int64_t k = share - (head_in_budget_ ? head : 0);
  if (k <= 0 && head_in_budget_ && head > 0) {
    fail<UsageError>(
        "{}: density {} of {} numbers is {}, and the head alone has {}; raise "
        "density or set count_head_in_budget: false",
        id_, density, all, share, head);
  }
  if (k <= 0) {
    fail<UsageError>("{}: density {} of {} numbers is none", id_, density, all);
  }
  std::int64_t available = 0;
  for (const std::int64_t n : sizes) available += n;
  if (k > available / workers) {
    fail<UsageError>(
        "{}: density {} asks for {} numbers{}, {} are neither excluded nor in "
        "the head",
        id_, density, k,
        workers > 1 ? fmt::format(" for each of {} workers", workers) : "",
        available);
  }
  return k * workers;
}

MaskedMethod::Mask MaskedMethod::draw(const Backbone& backbone,
                                      std::span<const int> slots,
                                      const DeclareContext& context) {
  const int workers = context.workers;
  if (!mask_file_.empty()) {
    if (workers > 1) {
      fail<UsageError>(
          "{}: mask_file fixes one mask for all workers; leave it out or set "
          "comm.workers: identical",
          id_);
    }
    // Later on, the weights are no longer those of the file.
    return {read_mask(id_, mask_file_, backbone, slots, context.step == 0), {}};
  }
  std::vector<std::int64_t> sizes;
  for (const int slot : slots) {
    sizes.push_back(backbone.parameters().slot(slot).frozen.numel());
  }
  const std::int64_t k =
      budget(backbone, sizes, schedule_.density(context.step), workers);
  Mask mask;
  std::vector<at::Tensor> scores;
  if (context.scoring == nullptr) {
    mask.index = spread_numbers(sizes, k, quota_);
  } else {
    scores = score(backbone, slots, context);
    check_scores(scores, k, context);
    mask.index = select_numbers(scores, k, quota_, keep_);
  }
  if (workers > 1) {
    mask.owner = deal_numbers(mask.index, scores, workers, keep_);
  }
  return mask;
}

MaskedMethod::Mask MaskedMethod::kept(const Backbone& backbone,
                                      std::span<const int> slots,
                                      const Delta& current) const {
  Mask mask;
  bool owned = false;
  for (const int slot : slots) {
    const Parameters::Slot& s = backbone.parameters().slot(slot);
    const int entry = current.find(entry_name(s));
    mask.index.push_back(
        entry < 0 ? at::empty({0}, at::kInt)
                  : current.entries()[static_cast<std::size_t>(entry)].index);
    const auto owner = current.constants().find(owner_constant(entry_name(s)));
    mask.owner.push_back(owner == current.constants().end() ? at::Tensor()
                                                            : owner->second);
    owned = owned || mask.owner.back().defined();
  }
  if (!owned) mask.owner.clear();
  return mask;
}

void MaskedMethod::declare_masked(DeltaBuilder& builder,
                                  const Backbone& backbone, int slot,
                                  const at::Tensor& index,
                                  const DeclareContext& context) const {
  if (index.numel() == 0) return;  // an empty tensor costs nothing
  const Parameters::Slot& s = backbone.parameters().slot(slot);
  DeltaEntry e;
  e.name = entry_name(s);
  e.kind = EntryKind::kMasked;
  e.shape = s.frozen.sizes().vec();
  e.index = index;
  e.target = s.name;
  e.group = decay_group(builder, e.shape.size());
  builder.add(std::move(e), start(backbone, slot, index, context));
}

}  // namespace thinwire
