// Diff pruning: theta = theta_0 + z ⊙ w. For gate_steps the differences w and
// gates z that may close train together; the k numbers with the largest |z ⊙ w|
// are the mask, and train on alone, in place, from theta_0 + z ⊙ w.
// Guo, Rush & Kim 2021, "Parameter-efficient transfer learning with diff
// pruning", sec. 3. Gates are hard-concrete (peft/hard_concrete.h), noise anew
// each step, with one more for each tensor that multiplies its numbers' own
// (the structured variant, sec. 3.3; `structured: false`: without). The loss
// gains l0_penalty times the expected number of open gates. The head is outside
// of all this: it trains whole and goes on training from where the cut found
// it.
// Differs: the cut keeps exactly k numbers outside the head, by gates without
// noise, as evaluation has them; the released code looks for a threshold that
// keeps about k, the head's among them, of one step's noisy gates. Gates begin
// to move when differences have. train.weight_decay is for what trains after
// the cut, and the head. In memory w is theta_0 + w, the tensor's own entry, so
// that what reads the model's weights reads it; theta_0 is the frozen tensor.
// While gates train, values, gradients and optimizer state are those of twice
// the numbers, and the weights in use one more copy; afterwards those of k.
#include <ATen/ops/full.h>

#include <cmath>
#include <optional>

#include "base/error.h"
#include "peft/hard_concrete.h"
#include "peft/masked_method.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    mask_fields::kDensity,
    {"gate_steps", FieldType::kInt, "1000",
     "steps in which differences and gates train, before the cut"},
    {"l0_penalty", FieldType::kFloat, "1.25e-7",
     "added to the loss for each gate, times its chance to be open"},
    {"gate_start", FieldType::kFloat, "5",
     "where gates start: log odds to be open"},
    {"structured", FieldType::kBool, "true",
     "each tensor has a gate more, which all its numbers share"},
    {"diff_lr_factor", FieldType::kFloat, "0.2",
     "of train.lr, the rate of differences and head before the cut"},
    {"gate_lr_factor", FieldType::kFloat, "2000",
     "of train.lr, the rate of gates"},
    mask_fields::kExclude,
    {mask_fields::kCountHead.name, FieldType::kBool, "false",
     mask_fields::kCountHead.help},
    mask_fields::kTrainHead,
    mask_fields::kQuota,
};

constexpr char kId[] = "diff_pruning";

std::string gate_name(const std::string& tensor) {
  return "diff_pruning.gate." + tensor;
}
std::string tensor_gate_name(const std::string& tensor) {
  return "diff_pruning.tensor_gate." + tensor;
}

class DiffPruning : public MaskedMethod {
 public:
  explicit DiffPruning(const Config& config)
      : MaskedMethod(kId, kId, config, Extreme::kLargest, "gate_steps"),
        penalty_(config.at("l0_penalty").get<double>()),
        gate_start_(config.at("gate_start").get<double>()),
        structured_(config.at("structured").get<bool>()),
        diff_rate_(config.at("diff_lr_factor").get<double>()),
        gate_rate_(config.at("gate_lr_factor").get<double>()) {
    at_least("gate_steps", dense_steps(), 1);
    if (!(penalty_ >= 0 && std::isfinite(penalty_))) {
      fail<UsageError>("{}: l0_penalty must be 0 or more, got {}", kId,
                       penalty_);
    }
    if (!(gate_start_ > 0 && gate_start_ < 80)) {
      fail<UsageError>(
          "{}: gate_start must be in (0, 80), where gates are open and can "
          "close, got {}",
          kId, gate_start_);
    }
    for (const auto& [name, rate] : {std::pair("diff_lr_factor", diff_rate_),
                                     std::pair("gate_lr_factor", gate_rate_)}) {
      if (rate > 0 && std::isfinite(rate)) continue;
      fail<UsageError>("{}: {} must be more than 0, got {}", kId, name, rate);
    }
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    Parameters& p = backbone.parameters();
    for (int i = 0; i < p.size(); ++i) {
      const std::string& name = p.slot(i).name;
      if (delta.find(gate_name(name)) < 0) continue;
      const int shared = delta.find(tensor_gate_name(name));
      const GatedTensor tensor{delta.leaf(name), p.writable(i),
                               delta.leaf(gate_name(name)),
                               shared < 0 ? at::Tensor() : delta.leaf(shared)};
      p.set_computed(i, [tensor, i](const ForwardContext& ctx) {
        if (!ctx.training) return gated(tensor, std::nullopt);
        return gated(tensor, GateNoise{ctx.seed, ctx.step, i});
      });
    }
  }

  std::optional<std::int64_t> next_rewind(std::int64_t step) const override {
    if (step < dense_steps()) return dense_steps();
    return std::nullopt;
  }

  double add_penalty(Delta& delta, double scale) const override {
    double sum = 0;
    for (const DeltaEntry& e : delta.entries()) {
      if (!e.name.starts_with(gate_name("")) &&
          !e.name.starts_with(tensor_gate_name(""))) {
        continue;
      }
      sum += add_open_penalty(delta.values().narrow(0, e.offset, e.count),
                              penalty_, scale,
                              delta.grads().narrow(0, e.offset, e.count));
    }
    return sum;
  }

 protected:
  void declare_whole(DeltaBuilder& builder, const Backbone& backbone,
                     std::span<const int> slots) const override {
    const int differences = builder.group({.name = "differences",
                                           .lr_factor = diff_rate_,
                                           .weight_decay_factor = 0});
    const int group = builder.group({.name = "gates",
                                     .lr_factor = gate_rate_,
                                     .weight_decay_factor = 0,
                                     .clip_group = "gates"});
    for (const int slot : slots) {
      const Parameters::Slot& s = backbone.parameters().slot(slot);
      declare_slot(builder, backbone, slot, differences);
      const auto gates = [&](at::IntArrayRef shape) {
        return at::full(shape, gate_start_, at::kFloat);
      };
      declare_dense(builder, gate_name(s.name), gates(s.frozen.sizes()), group);
      if (!structured_) continue;
      declare_dense(builder, tensor_gate_name(s.name), gates({1}), group);
    }
  }

  // Until the cut at the differences' rate; after it from where they are.
  void declare_heads(DeltaBuilder& builder, const Backbone& backbone,
                     const DeclareContext& context) const override {
    const Parameters& p = backbone.parameters();
    const double rate = context.step < dense_steps() ? diff_rate_ : 1;
    for (int i = 0; i < p.size(); ++i) {
      const std::string& name = p.slot(i).name;
      if (!p.slot(i).head || builder.trains(name)) continue;
      at::Tensor initial;
      if (context.ended != nullptr && context.ended->find(name) >= 0) {
        initial = numbers(*context.ended, name).view(p.slot(i).frozen.sizes());
      }
      const auto dimensions = p.slot(i).frozen.dim();
      declare_slot(
          builder, backbone, i,
          decay_group(builder, static_cast<std::size_t>(dimensions), rate),
          std::move(initial));
    }
  }

  std::vector<at::Tensor> score(const Backbone& backbone,
                                std::span<const int> slots,
                                const DeclareContext& context) override {
    THINWIRE_ASSERT(context.ended != nullptr, "{} at step {}: nothing ended",
                    kId, context.step);
    std::vector<at::Tensor> out = initial_numbers(backbone, slots);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      out[i].copy_(before_cut(*context.ended, backbone, slots[i], out[i])
                       .sub_(out[i])
                       .abs_());
    }
    return out;
  }

  void check_scores(std::span<const at::Tensor> scores, std::int64_t k,
                    const DeclareContext& context) const override {
    std::int64_t open = 0;
    for (const at::Tensor& s : scores) {
      open += s.count_nonzero().item<std::int64_t>();
    }
    if (open >= k) return;
    fail<UsageError>(
        "{}: density {} asks for {} numbers, and at step {} only {} differ "
        "with an open gate; lower density, l0_penalty or gate_lr_factor",
        kId, config().at("density").get<double>(), k, context.step, open);
  }

  at::Tensor start(const Backbone& backbone, int slot, const at::Tensor& index,
                   const DeclareContext& context) const override {
    if (context.ended == nullptr) {
      return MaskedMethod::start(backbone, slot, index, context);
    }
    const int slots[] = {slot};
    const at::Tensor rest = initial_numbers(backbone, slots)[0];
    return before_cut(*context.ended, backbone, slot, rest)
        .index_select(0, index);
  }

 private:
  static at::Tensor numbers(const Delta& delta, const std::string& name) {
    const int entry = delta.find(name);
    THINWIRE_ASSERT(entry >= 0, "'{}' did not train", name);
    const DeltaEntry& e = delta.entries()[static_cast<std::size_t>(entry)];
    return delta.values().narrow(0, e.offset, e.count);
  }

  // The slot's numbers as evaluation had them, flat.
  at::Tensor before_cut(const Delta& ended, const Backbone& backbone, int slot,
                        const at::Tensor& rest) const {
    const std::string& name = backbone.parameters().slot(slot).name;
    return gated(
        {numbers(ended, name), rest, numbers(ended, gate_name(name)),
         structured_ ? numbers(ended, tensor_gate_name(name)) : at::Tensor()},
        std::nullopt);
  }

  double penalty_, gate_start_;
  bool structured_;
  double diff_rate_, gate_rate_;
};

}  // namespace

const MethodInfo& diff_pruning_method() {
  static const MethodInfo kInfo = {
      "diff_pruning",
      "differences whose gates close, cut to the largest (Guo et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<DiffPruning>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
