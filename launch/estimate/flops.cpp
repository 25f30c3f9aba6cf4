#include "launch/estimate/flops.h"

#include <algorithm>
#include <map>
#include <string>

#include "launch/estimate/layer_names.h"
#include "peft/pruned_weights.h"
#include "peft/sublayers.h"

namespace thinwire {
namespace {

struct Tokens {
  double input = 0, target = 0;
};

// A model that is a decoder only has input and target in one stream, whose
// tokens then count as both.
Tokens tokens_of(std::span<const Sample> samples, bool one_stream) {
  Tokens t;
  for (const Sample& s : samples) {
    t.input += static_cast<double>(s.input.size());
    t.target += static_cast<double>(s.target.size());
  }
  if (one_stream) t.input = t.target += t.input;
  return t;
}

// The pairs of query and key that attention multiplies, over all samples.
struct Pairs {
  double encoder = 0, decoder = 0, cross = 0;
};

Pairs pairs_of(std::span<const Sample> samples, bool one_stream) {
  Pairs p;
  for (const Sample& s : samples) {
    const auto n = static_cast<double>(s.input.size());
    const auto m = static_cast<double>(s.target.size()) + (one_stream ? n : 0);
    p.encoder += n * n;
    p.decoder += m * (m + 1) / 2;
    p.cross += n * m;
  }
  return p;
}

class Count {
 public:
  Count(const Backbone& backbone, const Delta& delta, const Probe& probe,
        const LayerPlan& plan, std::span<const Sample> probed,
        std::span<const Sample> samples)
      : backbone_(backbone),
        names_(backbone),
        sublayers_(sublayers_of(backbone)),
        delta_(delta),
        uses_(probe.sites),
        plan_(plan),
        all_(tokens_of(samples, backbone.config().decoder_only)),
        part_(tokens_of(probed, backbone.config().decoder_only)),
        share_(static_cast<double>(samples.size()) /
               static_cast<double>(probed.size())),
        pairs_(pairs_of(samples, backbone.config().decoder_only)) {
    for (const DeltaEntry& e : delta.entries()) {
      if (!e.target.empty()) by_target_[e.target] = &e;
    }
  }

  StepFlops count() {
    for (const Site& site : backbone_.sites()) {
      if (site.kind == SiteKind::kLinear) linear(site);
      if (site.kind == SiteKind::kAttention) attention(site);
    }
    for (const DeltaEntry& e : delta_.entries()) {
      if (e.target.empty()) own(e);
    }
    return flops_;
  }

 private:
  // Of the layer itself where the probe had it, else of one like it.
  SiteUse use_of(const Site& site) const {
    auto found = uses_.find(site.name);
    const auto place = names_.find(site.name);
    if (found == uses_.end() && place) {
      const StackPlan& stack = place->decoder ? plan_.decoder : plan_.encoder;
      const int like = stack.like[static_cast<std::size_t>(place->layer)];
      found = uses_.find(LayerNames::in_layer(*place, like));
    }
    return found == uses_.end() ? SiteUse{} : found->second;
  }

  // Rows of the probe's batch, scaled to the whole one.
  double rows(const Site& site, const SiteUse& use) const {
    const auto n = static_cast<double>(use.rows);
    const Parameters& p = backbone_.parameters();
    const bool decodes =
        backbone_.config().decoder_layers > 0 ||
        (backbone_.config().decoder_only && p.count(true) == p.count(false));
    // The loss may multiply by the output matrix without passing the site.
    if (use.rows == 0 && site.role == Role::kHead && decodes) {
      return all_.target;
    }
    if (site.role == Role::kPooler || (site.role == Role::kHead && !decodes)) {
      return n * share_;
    }
    if (n == part_.target) return all_.target;
    return n * all_.input / std::max(1.0, part_.input);
  }

  void linear(const Site& site) {
    const SiteUse use = use_of(site);
    const double tokens = rows(site, use);
    const double product = 2 * tokens * static_cast<double>(site.d_in) *
                           static_cast<double>(site.d_out);
    flops_.forward += product;
    const LiveWidths live =
        live_widths(delta_.constants(), backbone_.parameters(), site);
    flops_.removed += product - 2 * tokens * static_cast<double>(live.d_in) *
                                    static_cast<double>(live.d_out);
    const bool unseen = use.rows == 0;  // by the probe: the loss's own
    if (use.grad || unseen) flops_.backward += product;
    const std::string& name = backbone_.parameters().slot(site.weight).name;
    const auto found = by_target_.find(name);
    if (found == by_target_.end()) return;
    const DeltaEntry& e = *found->second;
    flops_.backward += e.kind == EntryKind::kMasked
                           ? 2 * tokens * static_cast<double>(e.count)
                           : product;
  }

  void attention(const Site& site) {
    if (!ran(site)) return;
    const bool cross = site.role == Role::kCrossAttention;
    const double pairs = cross                           ? pairs_.cross
                         : site.stack == Stack::kDecoder ? pairs_.decoder
                                                         : pairs_.encoder;
    const double product = 2 * pairs * static_cast<double>(site.d_in);
    flops_.forward += 2 * product;
    flops_.removed += 2 * product * (1 - heads_left(site));
    if (reached(site)) flops_.backward += 4 * product;
  }

  // The share of what attention gives that its last projection reads.
  double heads_left(const Site& attention) const {
    const Sublayer& s =
        sublayers_.at({attention.stack, attention.layer, attention.role});
    const LiveWidths live =
        live_widths(delta_.constants(), backbone_.parameters(), *s.out);
    return static_cast<double>(live.d_in) / static_cast<double>(s.out->d_in);
  }

  // Backward passes through attention when one of its projections trains or has
  // an input with a gradient.
  bool reached(const Site& attention) const {
    return any_projection(attention,
                          [](const SiteUse& use) { return use.grad; });
  }
  // Not where features take the place of its layer.
  bool ran(const Site& attention) const {
    return any_projection(attention,
                          [](const SiteUse& use) { return use.rows > 0; });
  }
  bool any_projection(const Site& attention, auto holds) const {
    return std::ranges::any_of(backbone_.sites(), [&](const Site& s) {
      return s.kind == SiteKind::kLinear && s.stack == attention.stack &&
             s.layer == attention.layer && s.role == attention.role &&
             holds(use_of(s));
    });
  }

  // A matrix that stands beside the backbone's, named after the site that it
  // stands at, or after its layer: forward, both gradients. Others (prompts,
  // what prefixes are made from) meet no token.
  void own(const DeltaEntry& e) {
    if (e.shape.size() < 2) return;
    const Site* at = nullptr;
    for (const Site& site : backbone_.sites()) {
      if (site.kind != SiteKind::kLinear && site.kind != SiteKind::kSublayer) {
        continue;
      }
      if (e.name.find(site.name + ".") == std::string::npos) continue;
      if (at == nullptr || site.name.size() > at->name.size()) at = &site;
    }
    const auto layer = names_.find_beside(e.name);
    if (at == nullptr && !layer) return;
    const bool decoder =
        at == nullptr ? layer->decoder : at->stack == Stack::kDecoder;
    const double tokens = at != nullptr && at->kind == SiteKind::kLinear
                              ? rows(*at, use_of(*at))
                          : decoder ? all_.target
                                    : all_.input;
    const double product = 2 * tokens * static_cast<double>(e.count);
    flops_.forward += product;
    flops_.backward += 2 * product;
  }

  const Backbone& backbone_;
  const LayerNames names_;
  const Sublayers sublayers_;
  const Delta& delta_;
  const std::map<std::string, SiteUse>& uses_;
  const LayerPlan& plan_;
  const Tokens all_, part_;
  const double share_;
  const Pairs pairs_;
  std::map<std::string, const DeltaEntry*> by_target_;
  StepFlops flops_;
};

}  // namespace

StepFlops count_flops(const Backbone& backbone, const Delta& delta,
                      const Probe& probe, const LayerPlan& plan,
                      std::span<const Sample> probed,
                      std::span<const Sample> samples) {
  return Count(backbone, delta, probe, plan, probed, samples).count();
}

}  // namespace thinwire
