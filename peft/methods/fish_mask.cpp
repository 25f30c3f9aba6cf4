// FISH mask: the k numbers of the model with the largest Fisher information
// train, all others stay; the support is fixed once and the same everywhere.
// Sung, Nair & Raffel 2021, "Training neural networks with fixed sparse
// masks", sec. 3: k = floor(density * all numbers), a global top-k over
// everything but the task head, which trains whole and counts inside k. Ties
// go to the lower flat position, tensors in the backbone's order.
// Workers with masks of their own (sec. 4.2): of the P k numbers with the
// largest scores, worker w moves those of ranks w, w + P, w + 2 P, …; the head
// belongs to all.
// Differs: the head may be left out of the budget; tensors may be excluded; a
// saved mask may be used; weight decay acts on the mask alone (the reference
// code decays numbers outside it too); only the k numbers and their optimizer
// state are ever stored. Warm-up and re-masking: sec. 4.2 of the paper.
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/error.h"
#include "ops/reference.h"
#include "ops/top_k.h"
#include "peft/delta_file.h"
#include "peft/fisher.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"density", FieldType::kFloat, "0.005",
     "share of all numbers that train, at most 9 digits after the point"},
    {"samples", FieldType::kInt, "1024",
     "training examples that score the mask, over all ranks"},
    {"fisher", FieldType::kString, "empirical",
     "empirical: the data's labels; true: the model's own, weighted by their "
     "probability"},
    {"exclude", FieldType::kStrings, "~",
     "tensors that stay frozen: parts of names, or globs over whole names"},
    {"count_head_in_budget", FieldType::kBool, "true",
     "the head's numbers count against density"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
    {"mask_file", FieldType::kString, "~",
     "a delta whose mask is used instead of scoring"},
    {"warmup_steps", FieldType::kInt, "0",
     "steps in which everything trains, before the mask is drawn"},
    {"remask_every", FieldType::kInt, "0",
     "steps after which the mask is drawn anew; 0: never"},
};

class FishMask : public Method {
 public:
  explicit FishMask(Config config)
      : config_(std::move(config)),
        density_(config_.at("density").get<double>()),
        samples_(config_.at("samples").get<std::int64_t>()),
        exclude_(string_list(config_.at("exclude"))),
        head_in_budget_(config_.at("count_head_in_budget").get<bool>()),
        train_head_(config_.at("train_head").get<bool>()),
        warmup_(config_.at("warmup_steps").get<std::int64_t>()),
        remask_every_(config_.at("remask_every").get<std::int64_t>()) {
    if (!(density_ > 0 && density_ <= 1)) {
      fail<UsageError>("fish_mask: density must be in (0, 1], got {}",
                       density_);
    }
    const std::string fisher = config_.at("fisher").get<std::string>();
    if (fisher != "empirical" && fisher != "true") {
      fail<UsageError>("fish_mask: fisher must be empirical or true, got '{}'",
                       fisher);
    }
    labels_ =
        fisher == "true" ? Scoring::Labels::kModel : Scoring::Labels::kData;
    const auto at_least = [](const char* key, std::int64_t value,
                             std::int64_t low) {
      if (value >= low) return;
      fail<UsageError>("fish_mask: {} must be at least {}, got {}", key, low,
                       value);
    };
    at_least("samples", samples_, 1);
    at_least("warmup_steps", warmup_, 0);
    at_least("remask_every", remask_every_, 0);
    if (!config_.at("mask_file").is_null()) {
      mask_file_ = config_.at("mask_file").get<std::string>();
      if (remask_every_ > 0) {
        fail<UsageError>(
            "fish_mask: remask_every draws new masks, mask_file fixes one; "
            "leave one of them out");
      }
    }
  }

  std::string_view id() const override { return "fish_mask"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    check_patterns(id(), backbone, exclude_);
    const std::vector<int> slots = body(backbone);
    if (context.step < warmup_) {
      for (const int slot : slots) declare_slot(builder, backbone, slot);
    } else {
      const Mask mask = draw(backbone, slots, context);
      for (std::size_t i = 0; i < slots.size(); ++i) {
        declare_masked(builder, backbone, slots[i], mask.index[i]);
        if (mask.owner.empty() || mask.index[i].numel() == 0) continue;
        builder.constant(owner_constant(entry_name(
                             backbone.parameters().slot(slots[i]).name)),
                         mask.owner[i]);
      }
    }
    if (train_head_) declare_head(builder, backbone);
  }

  void attach(Backbone&, const Delta&) override {}

  std::optional<std::int64_t> next_boundary(std::int64_t step) const override {
    if (step < warmup_) return warmup_;
    if (remask_every_ == 0) return std::nullopt;
    return warmup_ + ((step - warmup_) / remask_every_ + 1) * remask_every_;
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
  }
  bool mergeable() const override { return true; }

 private:
  std::vector<int> body(const Backbone& backbone) const {
    std::vector<int> out;
    const Parameters& p = backbone.parameters();
    for (int i = 0; i < p.size(); ++i) {
      const Parameters::Slot& s = p.slot(i);
      if (s.head || s.buffer || matches_any(s.name, exclude_)) continue;
      out.push_back(i);
    }
    return out;
  }

  std::int64_t body_budget(const Backbone& backbone,
                           const std::vector<int>& slots, int workers) const {
    const Parameters& p = backbone.parameters();
    const std::int64_t all = p.count(true);
    const std::int64_t head = train_head_ ? all - p.count(false) : 0;
    const std::int64_t budget = exact_share(density_, all);
    const std::int64_t k = budget - (head_in_budget_ ? head : 0);
    if (k <= 0 && head_in_budget_ && head > 0) {
      fail<UsageError>(
          "fish_mask: density {} of {} numbers is {}, and the head alone has "
          "{}; raise density or set count_head_in_budget: false",
          density_, all, budget, head);
    }
    if (k <= 0) {
      fail<UsageError>("fish_mask: density {} of {} numbers is none", density_,
                       all);
    }
    std::int64_t available = 0;
    for (const int slot : slots) available += p.slot(slot).frozen.numel();
    if (k > available / workers) {
      fail<UsageError>(
          "fish_mask: density {} asks for {} numbers{}, {} are neither "
          "excluded "
          "nor in the head",
          density_, k,
          workers > 1 ? fmt::format(" for each of {} workers", workers) : "",
          available);
    }
    return k * workers;
  }

  struct Mask {
    std::vector<at::Tensor> index;  // of each slot
    std::vector<at::Tensor> owner;  // int32, of each slot; none: no owners
  };

  Mask draw(const Backbone& backbone, const std::vector<int>& slots,
            const DeclareContext& context) {
    const int workers = context.workers;
    if (!mask_file_.empty()) {
      if (workers > 1) {
        fail<UsageError>(
            "fish_mask: mask_file fixes one mask for all workers; leave it out "
            "or set comm.workers: identical");
      }
      return {read_mask(backbone, slots, context), {}};
    }
    const std::int64_t k = body_budget(backbone, slots, workers);
    Mask mask;
    if (context.scoring == nullptr) {
      mask.index = spread(backbone, slots, k);
      if (workers > 1) mask.owner = deal(mask.index, {}, workers);
      return mask;
    }
    const auto scores =
        fisher_scores(backbone, slots, *context.scoring, samples_, labels_);
    mask.index = top_k_indices(scores, k);
    if (workers > 1) mask.owner = deal(mask.index, scores, workers);
    return mask;
  }

  // By score, equal ones by position: the i-th goes to worker i mod workers.
  static std::vector<at::Tensor> deal(const std::vector<at::Tensor>& index,
                                      const std::vector<at::Tensor>& scores,
                                      int workers) {
    struct Number {
      float score;
      std::int32_t* owner;
    };
    std::vector<Number> numbers;
    std::vector<at::Tensor> owners;
    for (std::size_t t = 0; t < index.size(); ++t) {
      const std::int64_t n = index[t].numel();
      owners.push_back(at::empty({n}, at::kInt));
      auto* owner = owners.back().mutable_data_ptr<std::int32_t>();
      const at::Tensor chosen =
          scores.empty() ? at::zeros({n}, at::kFloat)
                         : scores[t].reshape({-1}).index_select(0, index[t]);
      const auto* score = chosen.const_data_ptr<float>();
      for (std::int64_t i = 0; i < n; ++i) {
        numbers.push_back({score[i], owner + i});
      }
    }
    std::ranges::stable_sort(numbers, std::greater<>(), &Number::score);
    std::int32_t next = 0;
    for (const Number& number : numbers) {
      *number.owner = next;
      next = (next + 1) % workers;
    }
    return owners;
  }

  // For counting alone: k positions evenly over all numbers, so that a step
  // with them costs about what one with a mask does.
  static std::vector<at::Tensor> spread(const Backbone& backbone,
                                        const std::vector<int>& slots,
                                        std::int64_t k) {
    double all = 0;
    for (const int slot : slots) {
      all +=
          static_cast<double>(backbone.parameters().slot(slot).frozen.numel());
    }
    const double stride = all / static_cast<double>(k);
    std::vector<at::Tensor> out;
    double begin = 0;    // of the tensor, among all numbers
    std::int64_t i = 0;  // position (i + 1/2) stride
    for (const int slot : slots) {
      const std::int64_t n = backbone.parameters().slot(slot).frozen.numel();
      std::vector<std::int64_t> index;
      for (; i < k; ++i) {
        const double at = (static_cast<double>(i) + 0.5) * stride - begin;
        if (at >= static_cast<double>(n)) break;
        index.push_back(static_cast<std::int64_t>(at));
      }
      begin += static_cast<double>(n);
      out.push_back(at::tensor(index, n > INT32_MAX ? at::kLong : at::kInt));
    }
    return out;
  }

  std::vector<at::Tensor> read_mask(const Backbone& backbone,
                                    const std::vector<int>& slots,
                                    const DeclareContext& context) const {
    const DeltaFile file = load_delta(mask_file_);
    const Parameters& p = backbone.parameters();
    // Later on, the weights are no longer those of the file.
    if (context.step == 0) {
      if (const Digest here = p.identity(); file.backbone != here) {
        fail<UsageError>(
            "fish_mask: mask_file {} was drawn on backbone {}, this one is {}",
            mask_file_, file.backbone.hex(), here.hex());
      }
    }
    std::vector<at::Tensor> out(slots.size(), at::arange(0, at::kInt));
    std::int64_t numbers = 0;
    for (const DeltaEntry& e : file.delta.entries()) {
      if (e.kind != EntryKind::kMasked) continue;
      const int slot = p.find(e.target);
      const auto it = std::find(slots.begin(), slots.end(), slot);
      if (it == slots.end() ||
          p.slot(slot).frozen.sizes() != at::IntArrayRef(e.shape)) {
        fail<UsageError>(
            "fish_mask: mask_file {} masks '{}' [{}], which this backbone "
            "lacks, or which is excluded",
            mask_file_, e.target, fmt::join(e.shape, ", "));
      }
      out[static_cast<std::size_t>(it - slots.begin())] = e.index;
      numbers += e.count;
    }
    if (numbers == 0) {
      fail<UsageError>("fish_mask: mask_file {} holds no mask", mask_file_);
    }
    return out;
  }

  static std::string entry_name(const std::string& slot) {
    return "fish." + slot;
  }

  static void declare_masked(DeltaBuilder& builder, const Backbone& backbone,
                             int slot, const at::Tensor& index) {
    if (index.numel() == 0) return;  // an empty tensor costs nothing
    const Parameters::Slot& s = backbone.parameters().slot(slot);
    DeltaEntry e;
    e.name = entry_name(s.name);
    e.kind = EntryKind::kMasked;
    e.shape = s.frozen.sizes().vec();
    e.index = index;
    e.target = s.name;
    e.group = decay_group(builder, e.shape.size());
    const at::Tensor initial = backbone.parameters().initial(slot);
    builder.add(std::move(e), initial.view({-1})
                                  .index_select(0, beside(index, initial))
                                  .to(at::kFloat));
  }

  Config config_;
  double density_;
  std::int64_t samples_;
  Scoring::Labels labels_ = Scoring::Labels::kData;
  std::vector<std::string> exclude_;
  bool head_in_budget_, train_head_;
  std::string mask_file_;
  std::int64_t warmup_, remask_every_;
};

}  // namespace

const MethodInfo& fish_mask_method() {
  static const MethodInfo kInfo = {
      "fish_mask",
      "the numbers with the largest Fisher information (Sung et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<FishMask>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
