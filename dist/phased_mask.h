// A method for tests: dense warm-up of all linear weights of the blocks, then a
// mask of the largest squared gradients, taken anew every so often.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros_like.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "peft/method.h"

namespace thinwire::trial {

class PhasedMask : public Method {
 public:
  PhasedMask(std::int64_t warmup, std::int64_t every, std::int64_t samples)
      : warmup_(warmup), every_(every), samples_(samples) {}

  std::string_view id() const override { return "phased_mask"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(R"({"method": "phased_mask"})");
    const int group = builder.group({.name = "default"});
    const auto slots = weights(backbone);
    const bool dense = context.step < warmup_;
    std::vector<at::Tensor> scores;
    if (!dense) scores = score(backbone, slots, *context.scoring);
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const Parameters::Slot& slot = backbone.parameters().slot(slots[i]);
      DeltaEntry e;
      e.name = slot.name;
      e.shape = slot.frozen.sizes().vec();
      e.target = slot.name;
      e.group = group;
      at::Tensor initial = slot.frozen.clone();
      if (!dense) {
        const std::int64_t k = slot.frozen.numel() / 10;
        e.kind = EntryKind::kMasked;
        const at::Tensor top =
            std::get<1>(scores[i].flatten().topk(k)).contiguous();
        e.index = std::get<0>(top.sort()).to(at::kInt);
        initial = slot.frozen.flatten().index_select(0, e.index.to(at::kLong));
      }
      builder.add(e, initial);
    }
  }

  void attach(Backbone&, const Delta&) override {}

  std::optional<std::int64_t> next_boundary(std::int64_t step) const override {
    if (step < warmup_) return warmup_;
    return warmup_ + ((step - warmup_) / every_ + 1) * every_;
  }

 private:
  static std::vector<int> weights(const Backbone& backbone) {
    std::vector<int> slots;
    for (const Site& site : backbone.sites()) {
      if (site.kind == SiteKind::kLinear && site.layer >= 0) {
        slots.push_back(site.weight);
      }
    }
    return slots;
  }

  std::vector<at::Tensor> score(const Backbone& backbone,
                                const std::vector<int>& slots,
                                Scoring& scoring) const {
    std::vector<at::Tensor> frozen, scores;
    for (const int slot : slots) {
      frozen.push_back(backbone.parameters().slot(slot).frozen);
      frozen.back().set_requires_grad(true);
      scores.push_back(at::zeros_like(frozen.back().detach()));
    }
    scoring.for_each_example(samples_, Scoring::Labels::kData,
                             [&](double weight) {
                               for (std::size_t i = 0; i < frozen.size(); ++i) {
                                 at::Tensor& grad = frozen[i].mutable_grad();
                                 scores[i].addcmul_(grad, grad, weight);
                                 grad.reset();
                               }
                             });
    for (at::Tensor& f : frozen) f.set_requires_grad(false);
    scoring.sum_over_ranks(scores);
    return scores;
  }

  std::int64_t warmup_, every_, samples_;
};

}  // namespace thinwire::trial
