#include "dist/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <span>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/watch.h"
#include "dist/agree_inputs.h"
#include "dist/buffers.h"
#include "dist/checkpoint.h"
#include "dist/declare.h"
#include "dist/durable.h"
#include "dist/feature_cache.h"
#include "dist/optimizer.h"
#include "dist/options.h"
#include "dist/ownership.h"
#include "dist/pace.h"
#include "dist/resume.h"
#include "dist/run_state.h"
#include "dist/step.h"
#include "dist/task_evals.h"
#include "dist/together.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

// Slower than any disk that a checkpoint is written to, bytes per second.
constexpr double kSlowDisk = 10e6;

// Steps between comparisons of the ranks' values.
constexpr std::int64_t kDigestEvery = 100;

std::span<const std::byte> bytes_of(const at::Tensor& t) {
  return {static_cast<const std::byte*>(t.const_data_ptr()),
          static_cast<std::size_t>(t.nbytes())};
}

class Trainer {
 public:
  explicit Trainer(TrainRun& run)
      : run_(run),
        comm_(*run.comm),
        options_(run.options),
        observer_(run.observer == nullptr ? quiet_ : *run.observer),
        metric_(run.options.metric, *run.task, !run.task_evals.empty()) {}

  TrainSummary train();

 private:
  std::string path(std::string_view name) const {
    return (std::filesystem::path(run_.folder) / name).string();
  }
  void resume(Resumed& from);
  // `current`: what trained until now, and may train on; `ended`: what trained
  // before everything was rewound.
  Delta declare(const Delta* current = nullptr, const Delta* ended = nullptr);
  Stretch stretch() const {
    return stretch_of(*run_.methods, state_.phase_step, steps_);
  }
  void adopt();
  bool disjoint() const {
    return options_.exchange.workers == ExchangeOptions::Workers::kDisjoint;
  }
  void check_dealt() const;
  void check_values();
  void next_phase();
  bool evaluates() const { return run_.eval || !run_.task_evals.empty(); }
  void evaluate_now();
  void save(const std::string& folder, const NamedTensors& optimizer);
  void checkpoint();
  void after(const StepOutcome& outcome);
  void compare_pace(const StepOutcome& outcome);
  bool out_of_patience() const {
    return options_.patience > 0 && state_.stale >= options_.patience &&
           stretch().end == steps_;
  }
  void summarise(TrainSummary& summary) const;

  TrainRun& run_;
  Communicator& comm_;
  const TrainOptions& options_;
  TrainObserver quiet_;
  TrainObserver& observer_;
  BestMetric metric_;
  std::int64_t steps_ = 0;
  RunState state_;
  Delta delta_;
  std::optional<Optimizer> optimizer_;
  std::unique_ptr<Loader> loader_;
  std::shared_ptr<const FeatureFolder> features_;
  std::optional<Stepper> stepper_;
  PaceWatch pace_;
  std::int64_t saved_step_ = -1;  // of the newest checkpoint
  std::int64_t values_checked_ = 0;
  std::int64_t sent_before_ = 0;  // bytes: by this rank before it was resumed,
  std::int64_t sent_at_start_ = 0;  // and by others than this run
};

Delta Trainer::declare(const Delta* current, const Delta* ended) {
  const auto scoring = make_scoring(comm_, *run_.backbone, *run_.task,
                                    run_.train, options_.data_seed, &observer_,
                                    /*alone=*/options_.deterministic);
  return together(comm_, [&] {
    return declare_delta(*run_.backbone, *run_.methods,
                         {.seed = options_.seed,
                          .step = state_.step,
                          .workers = disjoint() ? comm_.size() : 1,
                          .scoring = scoring.get(),
                          .ended = ended,
                          .current = current});
  });
}

// Makes delta_ what the backbone reads and the optimizer moves.
void Trainer::adopt() {
  agree(comm_, "the delta's layout", delta_.hash().hex());
  together(comm_, [&] {
    place_delta(*run_.backbone, delta_, run_.apart);
    attach_delta(*run_.backbone, *run_.methods, delta_);
    return true;
  });
  stepper_->use(delta_, *optimizer_, stretch());
  if (options_.cache.empty()) return;
  features_ =
      open_features(run_, delta_, steps_, observer_, std::move(features_));
  loader_->add_features(features_);
}

// Workers that move shares of their own need a method that deals them out, now
// or in a later phase.
void Trainer::check_dealt() const {
  if (!disjoint() || comm_.size() == 1 ||
      owned_numbers(delta_, comm_.rank(), comm_.size()).defined() ||
      phase_end(*run_.methods, state_.phase_step) < INT64_MAX) {
    return;
  }
  fail<UsageError>(
      "comm.workers: disjoint, but no method of peft deals its numbers out to "
      "the workers; choose a method with a mask, or workers: identical");
}

// Ranks that drifted apart are found within kDigestEvery steps, and leave no
// checkpoint behind.
void Trainer::check_values() {
  if (values_checked_ == state_.step) return;
  agree(comm_, fmt::format("the delta's values at step {}", state_.step),
        hash128(bytes_of(delta_.values())).hex());
  values_checked_ = state_.step;
}

void Trainer::resume(Resumed& from) {
  Checkpoint& c = from.checkpoint;
  state_ = run_state_from_json(c.state, from.folder);
  if (c.backbone != run_.identity) {
    fail<UsageError>(
        "{}: was trained on backbone {}, this run has {}; give the model the "
        "run was started with",
        from.folder, c.backbone.hex(), run_.identity.hex());
  }
  if (c.state.value("config", "") != run_.config_text) {
    observer_.warn("resumed with a configuration that has changed since " +
                   from.folder);
  }
  loader_->seek(batches_before(state_, run_, from.folder));
  delta_ = std::move(c.delta);
  optimizer_.emplace(options_, delta_);
  stepper_->reuse(state_.tuned);
  restore_buffers(c.optimizer, comm_.rank(), comm_.size(), delta_, from.folder);
  saved_step_ = state_.step;
  const auto rank = static_cast<std::size_t>(comm_.rank());
  if (rank < state_.sent_bytes.size()) {
    sent_before_ = state_.sent_bytes[rank];
  }
}

// Methods declare anew on the current weights; numbers that train on keep
// their values and, by state_policy, their optimizer state. Or on those of the
// start, where nothing keeps anything and no earlier evaluation counts.
void Trainer::next_phase() {
  Parameters& parameters = run_.backbone->parameters();
  StatePolicy policy = options_.state_policy;
  Relayout to;
  if (state_.step == stretch().end) {
    policy = StatePolicy::kRewind;
    together(comm_, [&] {
      rewind(delta_, parameters);
      return true;
    });
    to = rewound(declare(nullptr, &delta_));
    state_.best.reset();
    state_.stale = 0;
  } else {
    delta_.unbind(parameters);
    to = relayout(delta_, declare(&delta_));
  }
  optimizer_->relayout(delta_, to, policy);
  stepper_->relayout(delta_, to, policy);
  delta_ = std::move(to.delta);
  state_.phase_step = state_.step;
  adopt();
  observer_.phase(state_.step, delta_);
}

void Trainer::evaluate_now() {
  const auto common = stepper_->common();
  EvalOptions options;
  options.batch_size = eval_batch(options_, comm_.size());
  options.samples = options_.eval_samples;
  options.progress = [&](std::int64_t done, std::int64_t of) {
    observer_.progress("eval", done, of);
  };
  std::vector<EvalRecord> records = evaluate_run(run_, options);
  for (EvalRecord& r : records) r.step = state_.step;
  EvalRecord& record = records.back();
  metric_.judge(record, state_);
  state_.eval_step = state_.step;
  state_.last = record;
  if (!state_.first) state_.first = record;
  if (record.best && !run_.folder.empty()) save(path("best"), {});
  for (const EvalRecord& r : records) observer_.eval(r);
}

// Rank 0 writes; if it cannot, every rank says so alike.
void Trainer::save(const std::string& folder, const NamedTensors& optimizer) {
  std::int64_t bytes = delta_.values().nbytes();
  for (const auto& [name, tensor] : optimizer) bytes += tensor.nbytes();
  const Patience patience(comm_, static_cast<double>(bytes) / kSlowDisk);
  std::string error;
  if (comm_.rank() == 0) {
    try {
      auto state = to_json(state_);
      state["ranks"] = comm_.size();
      state["delta_hash"] = delta_.hash().hex();
      state["config"] = run_.config_text;
      save_checkpoint(folder, delta_, run_.identity, optimizer, state);
    } catch (const std::exception& e) {
      error = first_line(e);
    }
  }
  try {
    agree_ok(comm_, error);
  } catch (const UsageError& e) {
    fail<IoError>("checkpoint at step {} failed, earlier ones are intact: {}",
                  state_.step, e.what());
  }
}

void Trainer::checkpoint() {
  if (run_.folder.empty() || saved_step_ == state_.step) return;
  const auto common = stepper_->common();
  check_values();
  state_.tuned = stepper_->tuned();
  const std::int64_t sent = sent_before_ + comm_.bytes().sent - sent_at_start_;
  const auto all = comm_.all_gather_v(std::as_bytes(std::span(&sent, 1)),
                                      {.tag = "sent bytes"});
  state_.sent_bytes.clear();
  for (const auto& bytes : all) {
    std::int64_t& value = state_.sent_bytes.emplace_back();
    THINWIRE_ASSERT(bytes.size() == sizeof value, "{} bytes", bytes.size());
    std::copy_n(bytes.data(), sizeof value,
                reinterpret_cast<std::byte*>(&value));
  }
  const std::string folder =
      path(fmt::format("checkpoints/step-{}", state_.step));
  NamedTensors tensors = stepper_->state();
  for (auto& buffer : gather_buffers(comm_, delta_)) {
    tensors.push_back(std::move(buffer));
  }
  save(folder, tensors);
  if (comm_.rank() == 0) {
    try {
      prune_checkpoints(path("checkpoints"), options_.keep);
    } catch (const IoError& e) {
      observer_.warn(e.what());  // the new one is safe
    }
  }
  saved_step_ = state_.step;
  observer_.checkpoint(state_.step, folder);
}

void Trainer::after(const StepOutcome& outcome) {
  state_.step = outcome.record.step;
  state_.samples += outcome.record.samples;
  observer_.step(outcome.record);
  if (!outcome.exchanged) return;
  if (outcome.nonfinite.empty()) {
    state_.skipped_in_row = 0;
    if (outcome.no_weight) {
      observer_.warn(fmt::format(
          "step {}: no example of any rank has a loss; nothing moved",
          state_.step));
    }
    return;
  }
  ++state_.skipped;
  ++state_.skipped_in_row;
  observer_.warn(outcome.warning);
  if (state_.skipped_in_row >= options_.max_skips) {
    fail<Error>(
        "train: {} {} in a row were not finite, the last at step {}: {} "
        "(lower train.lr, or raise train.max_skips)",
        state_.skipped_in_row, options_.exchange.local() ? "merges" : "steps",
        state_.step, outcome.nonfinite);
  }
}

void Trainer::compare_pace(const StepOutcome& outcome) {
  pace_.count(outcome.record);
  if (!outcome.exchanged) return;
  const std::string slow = pace_.compare(comm_);
  if (!slow.empty()) {
    observer_.warn(fmt::format("step {}: {}", state_.step, slow));
  }
}

TrainSummary Trainer::train() {
  const auto begin = Clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  TrainSummary summary;
  sent_at_start_ = comm_.bytes().sent;
  agree_on_inputs(run_);
  steps_ = total_steps(options_, run_.train->index().samples, comm_.size());
  loader_ = together(comm_, [&] {
    return make_loader(run_.train,
                       loader_options(options_, comm_.rank(), comm_.size()));
  });
  together(comm_, [&] {
    check_rewinds(*run_.methods, steps_);
    return true;
  });
  stepper_.emplace(run_, *loader_);

  std::optional<Resumed> from;
  if (!run_.folder.empty()) {
    together(comm_, [&] {
      if (comm_.rank() == 0) {
        sweep_temporaries(run_.folder);
        sweep_temporaries(path("checkpoints"));
      }
      return true;
    });
    if (run_.resume) from = load_newest(comm_, path("checkpoints"), &observer_);
  }
  if (from) {
    together(comm_, [&] {
      resume(*from);
      return true;
    });
  } else {
    delta_ = run_.initial_delta ? std::move(*run_.initial_delta) : declare();
    optimizer_.emplace(options_, delta_);
  }
  adopt();
  together(comm_, [&] {
    check_dealt();
    if (from) stepper_->load(from->checkpoint.optimizer, from->folder);
    return true;
  });
  from.reset();
  observer_.begin(delta_, state_.step, steps_);
  const std::string unreached = phases_out_of_reach(*run_.methods, steps_);
  if (!unreached.empty()) observer_.warn(unreached);
  if (options_.deterministic) {
    observer_.note(
        together(comm_, [&] { return stepper_->cost(state_.step); }));
  }

  if (options_.eval_at_start && evaluates() && state_.eval_step < 0 &&
      state_.step == 0) {
    evaluate_now();
  }
  bool stop = false;
  while (!stop && state_.step < steps_ && !out_of_patience()) {
    if (state_.step >= phase_end(*run_.methods, state_.phase_step)) {
      next_phase();
    }
    const std::int64_t next = state_.step + 1;
    report_step(next);
    const StepOutcome outcome = stepper_->step(
        state_.step,
        next == steps_ || next == phase_end(*run_.methods, state_.phase_step));
    after(outcome);
    compare_pace(outcome);
    if (outcome.exchanged &&
        state_.step / kDigestEvery > values_checked_ / kDigestEvery) {
      check_values();
    }
    if (summary.seconds_to_first_step == 0) {
      summary.seconds_to_first_step = elapsed();
    }
    const bool end = state_.step == steps_;
    const auto due = [&](std::int64_t every) {
      return every > 0 && state_.step % every == 0;
    };
    if (evaluates() && (end || due(options_.eval_every))) evaluate_now();
    if (due(options_.checkpoint_every) || outcome.checkpoint || outcome.stop) {
      checkpoint();
    }
    stop = outcome.stop && !end;
  }
  checkpoint();  // unless it is there already

  summary.stop = stop                   ? TrainSummary::Stop::kSignal
                 : state_.step < steps_ ? TrainSummary::Stop::kEarly
                                        : TrainSummary::Stop::kDone;
  summarise(summary);
  summary.seconds = elapsed();
  return summary;
}

void Trainer::summarise(TrainSummary& s) const {
  s.steps = state_.step;
  s.trainable_parameters = delta_.trainable();
  s.total_parameters = run_.backbone->parameters().count();
  s.delta_bytes = delta_.values().nbytes();
  for (const DeltaEntry& e : delta_.entries()) {
    if (e.head) s.head_parameters += e.count;
    if (e.target.empty()) s.total_parameters += e.count;
    if (e.index.defined()) s.delta_bytes += e.index.nbytes();
  }
  s.payload_bytes_per_step = delta_.values().nbytes();
  s.predicted_sent_bytes_per_step = stepper_->predicted_sent_bytes();
  s.sent_bytes = sent_before_ + comm_.bytes().sent - sent_at_start_;
  s.skipped_steps = state_.skipped;
  s.peak_tensor_bytes = stepper_->peak_tensor_bytes();
  s.ranks = comm_.size();
  s.delta_hash = delta_.hash();
  s.backbone = run_.identity;
  s.first = state_.first;
  s.last = state_.last;
  s.best = state_.best;
}

}  // namespace

TrainSummary run_training(TrainRun& run) { return Trainer(run).train(); }

}  // namespace thinwire
