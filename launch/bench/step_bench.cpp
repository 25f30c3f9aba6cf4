#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/bench/step_bench.h"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <fmt/format.h>

#include <algorithm>

#include "comm/communicator.h"
#include "dist/stopwatch.h"
#include "launch/bench/step_check.h"
#include "launch/report.h"
#include "ops/matmul.h"

namespace thinwire {
namespace {

// A layer of the common widths; larger than a core's cache, as weights are.
constexpr std::int64_t kInner = 768, kOuter = 3072;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

class Timing : public TrainObserver {
 public:
  Timing(std::int64_t warmup, std::int64_t rows, bool bf16)
      : warmup_(warmup), rows_(rows), bf16_(bf16) {}

  void step(const StepRecord& record) override {
    rates_.push_back(gemm_rate(rows_, bf16_));
    if (record.step > warmup_) records_.push_back(record);
  }

  double rate() const { return median(rates_); }
  const std::vector<StepRecord>& records() const { return records_; }

 private:
  const std::int64_t warmup_, rows_;
  const bool bf16_;
  std::vector<double> rates_;
  std::vector<StepRecord> records_;
};

StepRecord medians(const std::vector<StepRecord>& records) {
  StepRecord out;
  const auto take = [&](auto field) {
    std::vector<double> values;
    for (const StepRecord& r : records) {
      values.push_back(static_cast<double>(r.*field));
    }
    out.*field = static_cast<std::remove_reference_t<decltype(out.*field)>>(
        median(std::move(values)));
  };
  take(&StepRecord::step_ms);
  take(&StepRecord::data_ms);
  take(&StepRecord::forward_ms);
  take(&StepRecord::backward_ms);
  take(&StepRecord::comm_ms);
  take(&StepRecord::comm_exposed_ms);
  take(&StepRecord::optimizer_ms);
  take(&StepRecord::tokens);
  return out;
}

void train(OpenRun& open, Communicator& comm, Timing& timing,
           const StepBenchOptions& options, StepBenchResult& result) {
  TrainRun run{.comm = &comm,
               .backbone = open.backbone.get(),
               .identity = open.identity,
               .task = open.task.get(),
               .methods = &open.methods,
               .train = open.train,
               .eval = nullptr,
               .options = open.config.train,
               .folder = "",
               .resume = false,
               .config_text = open.config.agreed_text,
               .observer = &timing,
               .request = nullptr,
               .initial_delta = std::nullopt};
  run.options.steps = options.warmup + options.steps;
  run.options.epochs = 0;
  result.peak_tensor_bytes = run_training(run).peak_tensor_bytes;
}

}  // namespace

double gemm_rate(std::int64_t rows, bool bf16) {
  const at::NoGradGuard no_grad;
  const at::Tensor a = at::full({rows, kInner}, 0.5, at::kFloat);
  at::Tensor w = at::full({kOuter, kInner}, 0.25, at::kFloat);
  if (bf16) w = w.to(at::kBFloat16);
  const double flops = 2.0 * static_cast<double>(rows * kInner * kOuter);
  double best = 0;
  const auto time = [&](auto&& product) {
    Stopwatch clock;
    product();
    best = std::max(best, flops / (clock.lap() / 1e3));
  };
  const at::Tensor other = bf16 ? a.to(at::kBFloat16) : a;
  for (int i = 0; i < 2; ++i) {
    time([&] { matmul_nt(a, w); });
    time([&] { at::mm(other, w.t()); });
  }
  return best;
}

StepBenchResult bench_step(OpenRun& open, Communicator& comm,
                           const StepBenchOptions& options) {
  StepBenchResult result;
  {
    ForeseenDelta foreseen = foresee_delta(open, "", kScoringBudget);
    const std::vector<Sample> batch = largest_batch(open, comm.size());
    result.estimate = estimate_step(open, foreseen, batch, kInspectBudget);
    result.checks = check_step(open, foreseen.delta, batch);
    open.backbone->parameters().freeze_all();
    open.backbone->detach_all();
  }
  const std::int64_t rows =
      std::clamp<std::int64_t>(result.estimate.tokens, 64, 2048);
  Timing timing(options.warmup, rows, open.config.model.dtype != "fp32");
  train(open, comm, timing, options, result);
  result.median = medians(timing.records());
  for (const StepRecord& r : timing.records()) {
    result.step_ms.push_back(r.step_ms);
  }
  result.gemm_flops = timing.rate();
  // The estimate is for the largest batch; arithmetic goes with tokens.
  result.flops = result.estimate.flops.total() *
                 static_cast<double>(result.median.tokens) /
                 static_cast<double>(comm.size() * result.estimate.tokens);
  return result;
}

std::string format_result(const StepBenchResult& r) {
  std::string out;
  for (const StepCheck& c : r.checks) {
    out += fmt::format(
        "check, {}: loss differs by {:.1e}, gradient by {:.1e} (at most "
        "{:.0e}): {}\n",
        c.name, c.loss_error, c.gradient_error, c.tolerance,
        c.good() ? "good" : "WRONG");
  }
  const StepRecord& m = r.median;
  std::vector<std::vector<std::string>> rows{{"part", "ms"}};
  const auto row = [&](const char* name, double ms) {
    rows.push_back({name, fmt::format("{:.2f}", ms)});
  };
  row("step", m.step_ms);
  row("data", m.data_ms);
  row("forward", m.forward_ms);
  row("backward", m.backward_ms);
  row("exchange", m.comm_ms);
  row("optimizer", m.optimizer_ms);
  out += format_table(rows);
  const auto margin = [](std::int64_t predicted, std::int64_t measured) {
    return 100.0 *
           (static_cast<double>(predicted) /
                static_cast<double>(std::max<std::int64_t>(measured, 1)) -
            1);
  };
  out += fmt::format(
      "roofline: {:.4g} GFLOP a step at {:.4g} GFLOP/s of products take {:.2f} "
      "ms; the step takes {:.2f} times that\n",
      r.flops / 1e9, r.gemm_flops / 1e9, r.flops / r.gemm_flops * 1e3,
      r.roofline());
  out += fmt::format("peak of tensors: {} bytes, {} predicted ({:+.1f} %)\n",
                     with_commas(r.peak_tensor_bytes),
                     with_commas(r.estimate.memory.tensors),
                     margin(r.estimate.memory.tensors, r.peak_tensor_bytes));
  return out;
}

nlohmann::ordered_json to_json(const StepBenchResult& r) {
  nlohmann::ordered_json checks = nlohmann::ordered_json::array();
  for (const StepCheck& c : r.checks) {
    checks.push_back({{"against", c.name},
                      {"loss", c.loss},
                      {"loss_error", c.loss_error},
                      {"gradient_norm", c.norm},
                      {"gradient_error", c.gradient_error},
                      {"tolerance", c.tolerance},
                      {"good", c.good()}});
  }
  return {{"checks", checks},
          {"step_ms", r.step_ms},
          {"median_ms",
           {{"step", r.median.step_ms},
            {"data", r.median.data_ms},
            {"forward", r.median.forward_ms},
            {"backward", r.median.backward_ms},
            {"exchange", r.median.comm_ms},
            {"optimizer", r.median.optimizer_ms}}},
          {"flops", r.flops},
          {"gemm_flops_per_second", r.gemm_flops},
          {"roofline", r.roofline()},
          {"peak_tensor_bytes", r.peak_tensor_bytes},
          {"predicted", to_json(r.estimate)}};
}

}  // namespace thinwire
