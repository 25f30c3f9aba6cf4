// Whole heads and channels: check_units() and remove_units() of
// peft/weight_pruning.h.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "models/parameters.h"
#include "peft/kept_numbers.h"
#include "peft/sublayers.h"
#include "peft/weight_pruning.h"

namespace thinwire {
namespace {

// Attentions whose heads go together.
struct HeadGroup {
  std::int64_t heads = 0;
  std::vector<const Sublayer*> attentions;
};

class Units {
 public:
  Units(const Backbone& backbone, const std::vector<ChangedSite>& sites,
        const UnitPruning& options)
      : p_(backbone.parameters()),
        sites_(sites),
        options_(options),
        sublayers_(sublayers_of(backbone)) {
    std::map<std::tuple<Stack, int, Role>, HeadGroup> groups;
    const ModelConfig& c = backbone.config();
    for (const auto& [place, s] : sublayers_) {
      const auto [stack, layer, role] = place;
      if (role == Role::kFeedForward) {
        if (options.channels > 0) feed_forwards_.push_back(&s);
        continue;
      }
      if (options.heads == 0) continue;
      const bool together =
          c.architecture == "t5" && role == Role::kSelfAttention;
      HeadGroup& group = groups[{stack, together ? 0 : layer, role}];
      const bool decoder = stack == Stack::kDecoder && c.decoder_layers > 0;
      group.heads = decoder ? c.decoder_heads : c.heads;
      group.attentions.push_back(&s);
    }
    for (auto& [place, group] : groups) groups_.push_back(std::move(group));
  }

  void check() const {
    for (const HeadGroup& group : groups_) {
      for (const Sublayer* s : group.attentions) check_attention(*s, group);
    }
    for (const Sublayer* s : feed_forwards_) {
      channels_gone(*s);
      check_reader(*s->out);
    }
  }

  Removed remove() {
    for (const HeadGroup& group : groups_) remove_heads(group);
    for (const Sublayer* s : feed_forwards_) remove_channels(*s);
    return std::move(removed_);
  }

 private:
  const ChangedSite* changed(const Site& site) const {
    const auto it = std::ranges::find_if(sites_, [&](const ChangedSite& s) {
      return s.site == &site && s.changed;
    });
    return it == sites_.end() ? nullptr : &*it;
  }

  void check_attention(const Sublayer& s, const HeadGroup& group) const {
    if (options_.heads >= group.heads) {
      fail<UsageError>(
          "{}: prune_heads {} would leave none of the {} heads whose outputs "
          "{} reads; remove at most {}",
          options_.method, options_.heads, group.heads, s.out->name,
          group.heads - 1);
    }
    if (std::ranges::none_of(s.in, [&](const Site* site) {
          return changed(*site) != nullptr;
        })) {
      fail<UsageError>(
          "{}: prune_heads goes by the changes of queries and values, and "
          "none of what {} reads has one; add them to target_modules",
          options_.method, s.out->name);
    }
    check_reader(*s.out);
  }

  void check_reader(const Site& site) const {
    if (changed(site) == nullptr) return;
    fail<UsageError>(
        "{}: {} reads heads or channels that are to go, and has a change that "
        "would go on reading them; take it out of target_modules",
        options_.method, site.name);
  }

  std::int64_t channels_gone(const Sublayer& s) const {
    const std::int64_t count = s.out->d_in;
    const std::int64_t gone = exact_share(options_.channels, count);
    if (gone > 0) return gone;
    fail<UsageError>(
        "{}: prune_channels {} of the {} that {} reads is none; raise it, or "
        "set it to 0",
        options_.method, options_.channels, count, s.out->name);
  }

  void remove_heads(const HeadGroup& group) {
    at::Tensor scores = at::zeros({group.heads}, at::kDouble);
    for (const Sublayer* s : group.attentions) {
      for (const Site* site : s->in) {
        const ChangedSite* with = changed(*site);
        if (with == nullptr) continue;
        scores.add_(row_sums(with->change.whole())
                        .view({site->fused, group.heads, -1})
                        .sum(at::IntArrayRef{0, 2}));
      }
    }
    if (!scores.ne(0).any().item<bool>()) {
      fail<UsageError>(
          "{}: the changes of all heads that {} reads are 0, as those that "
          "have not trained are; prune later",
          options_.method, group.attentions.front()->out->name);
    }
    const at::Tensor gone = smallest(scores, options_.heads);
    for (const Sublayer* s : group.attentions) {
      const at::Tensor rows = spread(gone, s->out->d_in / group.heads);
      for (const Site* site : s->in) {
        remove_rows(*site, rows.repeat({site->fused}));
      }
      remove_columns(*s->out, rows);
    }
  }

  void remove_channels(const Sublayer& s) {
    at::Tensor scores = at::zeros({s.out->d_in}, at::kDouble);
    for (const Site* site : s.in) {
      at::Tensor weight =
          out_in(p_.initial(site->weight), p_.slot(site->weight).axes)
              .cpu()
              .to(at::kFloat);
      if (const ChangedSite* with = changed(*site)) {
        weight = weight.add(with->change.whole().cpu());
      }
      scores.add_(row_sums(weight));
    }
    const at::Tensor gone = smallest(scores, channels_gone(s));
    for (const Site* site : s.in) remove_rows(*site, gone);
    remove_columns(*s.out, gone);
  }

  static at::Tensor row_sums(const at::Tensor& matrix) {
    return matrix.abs().sum(1, /*keepdim=*/false, at::kDouble).cpu();
  }

  // bool [n]: the k smallest, equal ones by position.
  static at::Tensor smallest(const at::Tensor& scores, std::int64_t k) {
    const at::Tensor order = scores.argsort(/*stable=*/true, 0, false);
    return at::zeros({scores.numel()}, at::kBool)
        .index_fill(0, order.narrow(0, 0, k), true);
  }

  // bool [n] -> [n * width].
  static at::Tensor spread(const at::Tensor& units, std::int64_t width) {
    return units.unsqueeze(1).expand({-1, width}).reshape({-1});
  }

  void remove_rows(const Site& site, const at::Tensor& rows) {
    remove(site.weight, rows.unsqueeze(1).expand({-1, site.d_in}));
    if (site.bias >= 0) removed_[p_.slot(site.bias).name] = rows;
  }

  void remove_columns(const Site& site, const at::Tensor& columns) {
    remove(site.weight, columns.unsqueeze(0).expand({site.d_out, -1}));
  }

  void remove(int slot, const at::Tensor& mask) {
    const Parameters::Slot& s = p_.slot(slot);
    removed_[s.name] = out_in(mask, s.axes).contiguous();
  }

  const Parameters& p_;
  const std::vector<ChangedSite>& sites_;
  const UnitPruning& options_;
  const Sublayers sublayers_;
  std::vector<HeadGroup> groups_;
  std::vector<const Sublayer*> feed_forwards_;
  Removed removed_;
};

}  // namespace

void check_units(const Backbone& backbone,
                 const std::vector<ChangedSite>& sites,
                 const UnitPruning& options) {
  Units(backbone, sites, options).check();
}

void remove_units(const Backbone& backbone,
                  const std::vector<ChangedSite>& sites,
                  const UnitPruning& options, Removed& removed) {
  const at::NoGradGuard no_grad;
  Units units(backbone, sites, options);
  units.check();
  removed.merge(units.remove());
}

}  // namespace thinwire
