#include "launch/estimate/whole_step.h"

#include <algorithm>
#include <array>
#include <functional>
#include <utility>

#include "base/error.h"
#include "launch/estimate/layer_names.h"

namespace thinwire {
namespace {

// All that is extrapolated, in one row.
using Figures = std::array<double, StepMemory::kParts + 2>;
constexpr std::size_t kKept = StepMemory::kParts,
                      kFeatures = StepMemory::kParts + 1;

Figures figures_of(const StepMemory& m) {
  Figures f;
  std::copy(std::begin(m.peak), std::end(m.peak), f.begin());
  f[kKept] = m.kept;
  f[kFeatures] = m.features;
  return f;
}

// a + (b - a) * times
Figures along(const Figures& a, const Figures& b, double times) {
  Figures out;
  for (std::size_t i = 0; i < a.size(); ++i) {
    out[i] = a[i] + (b[i] - a[i]) * times;
  }
  return out;
}

// Every count-th sample from the longest down: lengths as in the whole.
std::vector<Sample> thinned(std::span<const Sample> samples,
                            std::size_t count) {
  std::vector<const Sample*> order;
  for (const Sample& s : samples) order.push_back(&s);
  std::ranges::stable_sort(order, std::greater{}, [](const Sample* s) {
    return s->input.size() + s->target.size();
  });
  std::vector<Sample> out;
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back(*order[i * order.size() / count]);
  }
  return out;
}

// Numbers of the linear layers, the output matrix included.
class ProbeNumbers {
 public:
  explicit ProbeNumbers(const Backbone& backbone)
      : encoder_(static_cast<std::size_t>(backbone.config().layers)),
        decoder_(static_cast<std::size_t>(backbone.config().decoder_layers)) {
    const LayerNames names(backbone);
    for (const Site& s : backbone.sites()) {
      if (s.kind != SiteKind::kLinear) continue;
      const auto place = names.find(s.name);
      (!place           ? rest_
       : place->decoder ? decoder_[static_cast<std::size_t>(place->layer)]
                        : encoder_[static_cast<std::size_t>(place->layer)]) +=
          static_cast<double>(s.d_in * s.d_out);
    }
  }

  // In all the models that a plan has measured.
  double of(const LayerPlan& plan) const {
    const double base = rest_ + of(encoder_, plan.encoder.base) +
                        of(decoder_, plan.decoder.base);
    double all = base;
    for (const auto& more : plan.encoder.more) {
      all += base + of(encoder_, {more.layer});
    }
    for (const auto& more : plan.decoder.more) {
      all += base + of(decoder_, {more.layer});
    }
    return all;
  }

 private:
  static double of(const std::vector<double>& stack,
                   const std::vector<int>& layers) {
    double n = 0;
    for (const int layer : layers) n += stack[static_cast<std::size_t>(layer)];
    return n;
  }

  double rest_ = 0;
  std::vector<double> encoder_, decoder_;
};

class Foretelling {
 public:
  Foretelling(const OpenRun& run, const Delta& delta,
              std::span<const Sample> batch, double budget)
      : run_(run), delta_(delta), numbers_(*run.backbone) {
    plan_ = plan_layers(*run.backbone, delta);
    const LayerPlan whole = all_layers(*run.backbone);
    // Once all of a shallow model costs less than some of it several times.
    if (numbers_.of(whole) <= numbers_.of(plan_)) plan_ = whole;
    all_ = tokens_of(batch);
    probed_.assign(batch.begin(), batch.end());
    const double cost = 6 * numbers_.of(plan_) * static_cast<double>(all_);
    const auto fits = static_cast<std::size_t>(
        static_cast<double>(batch.size()) * budget / std::max(cost, 1.0));
    if (fits >= batch.size() || batch.size() < 4) return;
    probed_ =
        thinned(batch, std::clamp<std::size_t>(fits * 2 / 3, 2, batch.size()));
    half_ = thinned(probed_, probed_.size() / 2);
  }

  WholeStep step() {
    WholeStep out;
    const Figures f = figures();
    out.peak = *std::max_element(f.begin(), f.begin() + StepMemory::kParts);
    out.kept = std::min(f[kKept], out.peak);
    out.features = f[kFeatures];
    out.probe = std::move(probe_);
    out.plan = std::move(plan_);
    out.probed = std::move(probed_);
    return out;
  }

 private:
  // Of a whole batch, on the whole model.
  Figures figures() {
    Figures at;
    try {
      at = here(base(), true);
    } catch (const UsageError&) {
      // A method that leaves the first layers alone finds no place in so few.
      plan_ = all_layers(*run_.backbone);
      at = here(base(), true);
    }
    Figures out = at;
    const auto add = [&](const ChosenLayers& chosen, std::int64_t times) {
      const Figures to =
          along(at, here(chosen, false), static_cast<double>(times));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += to[i] - at[i];
    };
    for (const auto& more : plan_.encoder.more) {
      add({plan_.encoder.with(more.layer), plan_.decoder.base}, more.times);
    }
    for (const auto& more : plan_.decoder.more) {
      add({plan_.encoder.base, plan_.decoder.with(more.layer)}, more.times);
    }
    return out;
  }

  ChosenLayers base() const { return {plan_.encoder.base, plan_.decoder.base}; }

  Figures here(const ChosenLayers& chosen, bool first) {
    Probe whole =
        probe_step(run_.config, *run_.backbone, delta_, probed_, chosen, first);
    Figures out = figures_of(whole.step);
    if (!half_.empty()) {
      const Probe half =
          probe_step(run_.config, *run_.backbone, delta_, half_, chosen, false);
      const auto more = static_cast<double>(tokens_of(probed_));
      const auto less = static_cast<double>(tokens_of(half_));
      out = along(figures_of(half.step), out,
                  (static_cast<double>(all_) - less) / (more - less));
    }
    if (first) probe_ = std::move(whole);
    return out;
  }

  const OpenRun& run_;
  const Delta& delta_;
  const ProbeNumbers numbers_;
  LayerPlan plan_;
  std::int64_t all_ = 0;  // tokens
  std::vector<Sample> probed_, half_;
  Probe probe_;
};

}  // namespace

std::int64_t tokens_of(std::span<const Sample> samples) {
  std::int64_t n = 0;
  for (const Sample& s : samples)
    n += std::ssize(s.input) + std::ssize(s.target);
  return n;
}

WholeStep foretell_step(const OpenRun& run, const Delta& delta,
                        std::span<const Sample> batch, double budget) {
  return Foretelling(run, delta, batch, budget).step();
}

}  // namespace thinwire
