#include "launch/estimate/estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "data/loader.h"
#include "dist/options.h"
#include "launch/estimate/whole_step.h"
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
// Batches whose features are there at one time: that of the step, one that
// waits for it, one that is being read.
constexpr double kBatchesRead = 3;
// Tokens of a sample where neither data nor config say.
constexpr std::int64_t kTokensUnknown = 128, kTargetsUnknown = 32;

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

StepEstimate estimate_step(const OpenRun& run, const ForeseenDelta& foreseen,
                           std::span<const Sample> batch, double budget) {
  THINWIRE_ASSERT(!batch.empty(), "no samples to estimate a step of");
  count_tensor_memory();
  const Delta& delta = foreseen.delta;
  const WholeStep step = foretell_step(run, delta, batch, budget);
  const Probe& probe = step.probe;

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
  m.activations = std::llround(step.kept);
  m.transient = std::llround(step.peak - step.kept);
  m.features = std::llround(kBatchesRead * step.features);
  m.base = kProcessBase;
  m.tensors = run.model.private_bytes + masked.more() + m.states +
              m.activations + m.transient;
  m.process = m.base + run.model.shared_bytes + m.tensors + m.features;
  out.flops =
      count_flops(*run.backbone, delta, probe, step.plan, step.probed, batch);
  out.samples = std::ssize(batch);
  out.tokens = tokens_of(batch);
  out.trainable = delta.trainable();
  out.masks = foreseen.masks;
  return out;
}

nlohmann::ordered_json to_json(const StepEstimate& e) {
  const MemoryEstimate& m = e.memory;
  return {{"trainable_parameters", e.trainable},
          {"masks", e.masks},
          {"samples", e.samples},
          {"tokens", e.tokens},
          {"forward_flops", e.flops.forward},
          {"backward_flops", e.flops.backward},
          {"removed_forward_flops", e.flops.removed},
          {"weights_shared_bytes", m.weights_shared},
          {"weights_private_bytes", m.weights_private},
          {"states_bytes", m.states},
          {"activations_bytes", m.activations},
          {"transient_bytes", m.transient},
          {"features_bytes", m.features},
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
  if (m.features > 0) row("features read from the cache", m.features);
  row("program and libraries", m.base);
  row("peak of tensors", m.tensors);
  row("peak of the process", m.process);
  const std::string masks =
      e.masks.empty() ? "" : fmt::format("masks: {}\n", e.masks);
  const std::string removed =
      e.flops.removed == 0
          ? ""
          : fmt::format(
                "removed heads and channels: {:.4g} GFLOP of forward, {:.1f} "
                "%, which a merged model of their size does without\n",
                e.flops.removed / 1e9, 100 * e.flops.removed / e.flops.forward);
  return fmt::format("a step of {} samples, {} tokens (the largest batch)\n",
                     with_commas(e.samples), with_commas(e.tokens)) +
         masks + format_table(rows) +
         fmt::format("arithmetic: {:.4g} GFLOP forward, {:.4g} backward\n",
                     e.flops.forward / 1e9, e.flops.backward / 1e9) +
         removed;
}

}  // namespace thinwire
