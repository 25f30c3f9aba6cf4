#include "launch/run_observer.h"

#include <spdlog/spdlog.h>

#include <optional>

#include "launch/metrics_log.h"
#include "launch/progress.h"
#include "launch/summary.h"
#include "launch/tensorboard.h"

namespace thinwire {
namespace {

class LogObserver : public TrainObserver {
 public:
  // What loading and scoring took is not the steps'.
  void begin(const Delta&, std::int64_t, std::int64_t) override {
    reset_peak_rss();
  }
  void phase(std::int64_t step, const Delta& delta) override {
    spdlog::info("step {}: a new layout of {} numbers", step,
                 delta.trainable());
  }
  void checkpoint(std::int64_t step, const std::string& folder) override {
    spdlog::info("checkpoint at step {}: {}", step, folder);
  }
  // Rank 0 says these on the terminal.
  void note(std::string_view message) override { spdlog::info("{}", message); }
  void warn(std::string_view message) override { spdlog::info("{}", message); }
};

class RunObserver : public LogObserver {
 public:
  RunObserver(std::string folder, std::int64_t log_every)
      : folder_(std::move(folder)), log_every_(log_every) {}

  void begin(const Delta& delta, std::int64_t first_step,
             std::int64_t steps) override {
    LogObserver::begin(delta, first_step, steps);
    first_ = first_step;
    steps_ = steps;
    metrics_.emplace(folder_, first_step);
    tensorboard_.emplace(folder_);
    progress_.begin(first_step, steps);
    progress_.say(fmt::format(
        "{} trainable numbers, {} per exchange; steps "
        "{} to {}",
        delta.trainable(), human_bytes(4.0 * static_cast<double>(delta.size())),
        first_step + 1, steps));
  }

  void step(const StepRecord& r) override {
    progress_.step(r);
    const bool due = r.step % log_every_ == 0 || r.step == first_ + 1 ||
                     r.step == steps_ || r.skipped;
    if (!due) return;
    write(to_json(r));
    const auto add = [&](const char* tag, double value) {
      tensorboard_->scalar(tag, r.step, value);
    };
    add("train/loss", r.loss);
    add("train/lr", r.lr);
    add("train/grad_norm", r.grad_norm);
    if (r.penalty != 0) add("train/penalty", r.penalty);
    add("time/step_ms", r.step_ms);
    add("time/comm_exposed_ms", r.comm_exposed_ms);
    add("comm/sent_bytes", static_cast<double>(r.sent_bytes));
  }

  void eval(const EvalRecord& r) override {
    std::string text = fmt::format("step {}: {}", r.step, r.split);
    std::string tag = r.split + "/";
    if (!r.task.empty()) {
      text += " of " + r.task;
      tag += r.task + "/";
    }
    for (const auto& [name, value] : r.metrics) {
      text += fmt::format("  {} {:.4f}", name, value);
      tensorboard_->scalar(tag + name, r.step, value);
    }
    tensorboard_->flush();
    progress_.say(text + (r.best ? "  (best)" : ""));
    write(to_json(r));
  }

  void phase(std::int64_t step, const Delta& delta) override {
    LogObserver::phase(step, delta);
    write({{"event", "phase"},
           {"step", step},
           {"trainable_parameters", delta.trainable()},
           {"delta_hash", delta.hash().hex()}});
  }

  void progress(std::string_view what, std::int64_t done,
                std::int64_t of) override {
    progress_.work(what, done, of);
  }

  void note(std::string_view message) override {
    progress_.say(std::string(message));
    spdlog::info("{}", message);
  }

  void warn(std::string_view message) override {
    progress_.say(fmt::format("warning: {}", message));
    spdlog::info("{}", message);
  }

 private:
  void write(const nlohmann::ordered_json& line) {
    if (metrics_->write(line) || complained_) return;
    complained_ = true;
    warn("metrics.jsonl cannot be written; lines are being lost");
  }

  const std::string folder_;
  const std::int64_t log_every_;
  std::int64_t first_ = 0, steps_ = 0;
  Progress progress_;
  std::optional<MetricsLog> metrics_;
  std::optional<TensorboardWriter> tensorboard_;
  bool complained_ = false;
};

}  // namespace

std::unique_ptr<TrainObserver> make_observer(int rank,
                                             const std::string& folder,
                                             std::int64_t log_every) {
  if (rank != 0) return std::make_unique<LogObserver>();
  return std::make_unique<RunObserver>(folder, log_every);
}

}  // namespace thinwire
