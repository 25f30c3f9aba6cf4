#include "launch/estimate/estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "data/loader.h"
#include "dist/options.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

// Of a process that has trained a model of no size: code and tables of
// LibTorch, MPI and oneDNN, with what they compiled; measured, with jemalloc.
constexpr std::int64_t kProcessBase = 190'000'000;
// Batches that are looked at for the largest one.
constexpr std::int64_t kBatchesSeen = 500;
// Tokens of a sample where neither data nor config say.
constexpr std::int64_t kTokensUnknown = 128, kTargetsUnknown = 32;

std::int64_t tokens_of(std::span<const Sample> samples) {
  std::int64_t n = 0;
  for (const Sample& s : samples)
    n += std::ssize(s.input) + std::ssize(s.target);
  return n;
}

// All that is extrapolated, in one row.
using Figures = std::array<double, StepMemory::kParts + 1>;

Figures figures_of(const StepMemory& m) {
  Figures f;
  std::copy(std::begin(m.peak), std::end(m.peak), f.begin());
  f.back() = m.kept;
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

class Estimating {
 public:
  Estimating(const OpenRun& run, std::span<const Sample> batch, double budget)
      : run_(run), model_(run.backbone->config()) {
    all_ = tokens_of(batch);
    probed_.assign(batch.begin(), batch.end());
    const double cost = 3 * 6 * probe_numbers() * static_cast<double>(all_);
    const auto fits = static_cast<std::size_t>(
        static_cast<double>(batch.size()) * budget / std::max(cost, 1.0));
    if (fits >= batch.size() || batch.size() < 4) return;
    probed_ =
        thinned(batch, std::clamp<std::size_t>(fits * 2 / 3, 2, batch.size()));
    half_ = thinned(probed_, probed_.size() / 2);
  }

  // Of a whole batch, on the whole model.
  Figures figures() {
    const std::int64_t e = model_.layers, d = model_.decoder_layers;
    std::int64_t e0 = std::min(e, kFew), d0 = std::min(d, kFew);
    Figures at;
    try {
      at = here(e0, d0, true);
    } catch (const UsageError&) {
      // A method that leaves the first layers alone finds no place in so few.
      at = here(e0 = e, d0 = d, true);
    }
    Figures out = at;
    const auto add = [&](const Figures& more, std::int64_t layers) {
      const Figures to = along(at, more, static_cast<double>(layers));
      for (std::size_t i = 0; i < out.size(); ++i) out[i] += to[i] - at[i];
    };
    if (e > e0) add(here(e0 + 1, d0, false), e - e0);
    if (d > d0) add(here(e0, d0 + 1, false), d - d0);
    return out;
  }

  const Probe& probe() const { return probe_; }
  std::span<const Sample> probed() const { return probed_; }

 private:
  static constexpr std::int64_t kFew = 2;

  // In a model of kFew layers, the output matrix included.
  double probe_numbers() const {
    double layers = 0, rest = 0;
    for (const Site& s : run_.backbone->sites()) {
      if (s.kind != SiteKind::kLinear) continue;
      const auto n = static_cast<double>(s.d_in * s.d_out);
      (s.layer < 0 ? rest : layers) += s.layer < kFew ? n : 0;
    }
    return layers + rest;
  }

  Figures here(std::int64_t layers, std::int64_t decoder_layers, bool first) {
    Probe whole = probe_step(run_.config, *run_.backbone, probed_, layers,
                             decoder_layers, first);
    Figures out = figures_of(whole.step);
    if (!half_.empty()) {
      const Probe half = probe_step(run_.config, *run_.backbone, half_, layers,
                                    decoder_layers, false);
      const auto more = static_cast<double>(tokens_of(probed_));
      const auto less = static_cast<double>(tokens_of(half_));
      out = along(figures_of(half.step), out,
                  (static_cast<double>(all_) - less) / (more - less));
    }
    if (first) probe_ = std::move(whole);
    return out;
  }

  const OpenRun& run_;
  const ModelConfig& model_;
  std::int64_t all_ = 0;  // tokens
  std::vector<Sample> probed_, half_;
  Probe probe_;
};

std::vector<Sample> made_up_batch(const RunConfig& config,
                                  const ModelConfig& model) {
  const bool text = config.task_kind == "text_to_text" ||
                    config.task_kind == "span_corruption";
  const std::int64_t tokens =
      config.max_tokens > 0 ? config.max_tokens : kTokensUnknown;
  std::vector<Sample> out;
  for (std::int64_t i = 0; i < config.train.batch_size; ++i) {
    Sample s;
    s.id = static_cast<std::uint64_t>(i);
    for (std::int64_t t = 0; t < tokens; ++t) {
      s.input.push_back(static_cast<std::int32_t>(
          2 + (t + 7 * i) % std::max<std::int64_t>(1, model.vocab_size - 2)));
    }
    if (text) {
      s.target.assign(s.input.begin(),
                      s.input.begin() + std::min(tokens, kTargetsUnknown));
    }
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace

std::vector<Sample> largest_batch(const OpenRun& run, int ranks) {
  const TrainOptions& train = run.config.train;
  std::vector<Sample> best;
  if (run.train == nullptr) {
    best = made_up_batch(run.config, run.backbone->config());
  } else {
    const auto loader = make_loader(run.train, loader_options(train, 0, ranks));
    const std::int64_t steps =
        total_steps(train, run.train->index().samples, ranks);
    const std::int64_t seen =
        std::min(kBatchesSeen, steps * train.accumulation);
    for (std::int64_t i = 0; i < seen; ++i) {
      std::vector<Sample> batch = loader->next().samples;
      if (tokens_of(batch) > tokens_of(best)) best = std::move(batch);
    }
  }
  if (train.deterministic) {
    const VirtualShards shards = virtual_shards(train, ranks);
    best.resize(
        std::min(best.size(), static_cast<std::size_t>(shards.samples())));
  }
  return best;
}

StepEstimate estimate_step(const OpenRun& run, const Delta& delta,
                           std::span<const Sample> batch, double budget) {
  THINWIRE_ASSERT(!batch.empty(), "no samples to estimate a step of");
  count_tensor_memory();
  Estimating estimating(run, batch, budget);
  const Figures figures = estimating.figures();
  const Probe& probe = estimating.probe();
  const double peak = *std::max_element(figures.begin(), figures.end() - 1);
  const double kept = std::min(figures.back(), peak);

  StepEstimate out;
  MemoryEstimate& m = out.memory;
  const MaskedBytes masked = masked_bytes(run.backbone->parameters(), delta);
  m.weights_shared =
      std::max<std::int64_t>(0, run.model.shared_bytes - masked.before);
  m.weights_private = run.model.private_bytes +
                      std::min(masked.before, run.model.shared_bytes) +
                      masked.more();
  m.states =
      std::llround(probe.state_bytes * static_cast<double>(delta.size()) /
                   std::max(1.0, probe.numbers));
  m.activations = std::llround(kept);
  m.transient = std::llround(peak - kept);
  m.base = kProcessBase;
  m.tensors = run.model.private_bytes + masked.more() + m.states +
              m.activations + m.transient;
  m.process = m.base + run.model.shared_bytes + m.tensors;
  out.flops =
      count_flops(*run.backbone, delta, probe, estimating.probed(), batch);
  out.samples = std::ssize(batch);
  out.tokens = tokens_of(batch);
  out.trainable = delta.trainable();
  return out;
}

nlohmann::ordered_json to_json(const StepEstimate& e) {
  const MemoryEstimate& m = e.memory;
  return {{"trainable_parameters", e.trainable},
          {"samples", e.samples},
          {"tokens", e.tokens},
          {"forward_flops", e.flops.forward},
          {"backward_flops", e.flops.backward},
          {"weights_shared_bytes", m.weights_shared},
          {"weights_private_bytes", m.weights_private},
          {"states_bytes", m.states},
          {"activations_bytes", m.activations},
          {"transient_bytes", m.transient},
          {"base_bytes", m.base},
          {"peak_tensor_bytes", m.tensors},
          {"peak_process_bytes", m.process}};
}

std::string compare(const StepEstimate& e,
                    const nlohmann::ordered_json& measured) {
  std::string out;
  const auto hold = [&](const char* what, const char* key, std::int64_t bytes,
                        double margin) {
    const auto fact = measured.at(key).get<double>();
    const double off = static_cast<double>(bytes) / std::max(fact, 1.0) - 1;
    if (fact == 0 || std::abs(off) <= margin) return;
    out +=
        fmt::format("{}peak memory of {}: {} predicted, {} measured",
                    out.empty() ? "" : "; ", what,
                    human_bytes(static_cast<double>(bytes)), human_bytes(fact));
  };
  hold("tensors", "peak_tensor_bytes", e.memory.tensors, 0.05);
  hold("the process", "peak_process_bytes", e.memory.process, 0.12);
  return out;
}

std::string describe(const StepEstimate& e) {
  const MemoryEstimate& m = e.memory;
  std::vector<std::vector<std::string>> rows{{"memory of a rank", "bytes"}};
  const auto row = [&](const char* name, std::int64_t bytes) {
    rows.push_back({name, with_commas(bytes)});
  };
  row("weights, shared by a host's ranks", m.weights_shared);
  row("weights, its own", m.weights_private);
  row("states of what trains", m.states);
  row("activations kept for backward", m.activations);
  row("transient beside them", m.transient);
  row("program and libraries", m.base);
  row("peak of tensors", m.tensors);
  row("peak of the process", m.process);
  return fmt::format("a step of {} samples, {} tokens (the largest batch)\n",
                     with_commas(e.samples), with_commas(e.tokens)) +
         format_table(rows) +
         fmt::format("arithmetic: {:.4g} GFLOP forward, {:.4g} backward\n",
                     e.flops.forward / 1e9, e.flops.backward / 1e9);
}

}  // namespace thinwire
