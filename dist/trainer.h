// The training loop: batches in, one exchange of the delta's gradient, one
// optimizer pass. Knows no method and no backend by name.
//
// Exchanging at every step, P ranks with batch b take the same steps as one
// rank with batch P b, and `accumulation` a the same as a batch a times as
// large, up to rounding, with dropout on: gradients are sums, and the division
// by the summed loss weight of all ranks and micro-batches follows the
// exchange.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/shard_folder.h"
#include "dist/exchange_options.h"
#include "peft/method.h"
#include "peft/relayout.h"
#include "tasks/task.h"

namespace thinwire {

class Communicator;

struct TrainOptions {
  std::int64_t steps = 0;  // optimizer steps; 0: epochs decides
  double epochs = 0;
  std::int64_t batch_size = 32;   // samples per rank and micro-batch
  std::int64_t accumulation = 1;  // micro-batches per step
  double lr = 1e-3;
  std::string optimizer = "adamw";  // adamw | sgd | lion | adafactor
  // None: AdamW 0.9 and 0.999, Lion 0.9 and 0.99, Adafactor no first moment.
  std::optional<double> beta1, beta2;
  double epsilon = 1e-8;  // AdamW
  double momentum = 0;    // SGD
  bool nesterov = false;
  // Adafactor (ops/adafactor_pass.h). relative_step: the rate is
  // min(1e-2, 1 / sqrt(step)), with warmup_init min(1e-6 step, 1 / sqrt(step));
  // lr must then be 1.
  double clip_threshold = 1, decay_rate = -0.8;
  double epsilon1 = 1e-30, epsilon2 = 1e-3;
  bool scale_parameter = false, relative_step = false, warmup_init = false;
  double weight_decay = 0;
  double clip = 1.0;                // global norm; 0: off
  std::string schedule = "linear";  // linear | cosine | constant
  std::int64_t warmup = 0;          // steps
  std::int64_t eval_every = 0;      // steps; 0: only at the end
  std::int64_t eval_samples = 0;    // 0: all
  bool eval_at_start = false;
  // The same bits for every number of ranks at one global batch, which is cut
  // into so many shards (dist/virtual_shards.h).
  bool deterministic = false;
  // Blocks are computed again in backward (ops/checkpoint.h).
  bool checkpoint_blocks = false;
  int virtual_shards = 8;
  std::int64_t eval_batch_size = 0;   // 0: batch_size
  std::int64_t checkpoint_every = 0;  // steps; 0: only at the end
  std::int64_t keep = 2;              // checkpoints kept beside best/
  std::int64_t log_every = 10;
  std::int64_t patience = 0;  // evaluations without gain; 0: off
  std::string metric;         // of best/ and patience; "": the task's
  // Non-finite steps in a row that end a run; with local steps, merges.
  std::int64_t max_skips = 10;
  // At phase boundaries. kRewind is refused: a method decides on it
  // (Method::next_rewind).
  StatePolicy state_policy = StatePolicy::kDrop;
  std::uint64_t seed = 1;  // dropout and initial values
  std::uint64_t data_seed = 1;
  std::int64_t bucket_window = 2048;
  std::int64_t queue_batches = 4;
  MixingOptions mixing;  // of a training folder of several tasks
  double dropout = -1;   // < 0: the model's own
  std::string cache;     // folder of features (dist/feature_cache.h); "": none
  ExchangeOptions exchange;
};

// One line of metrics.jsonl (design §5); milliseconds of this rank. Of a step
// between two merges, loss, norm and tokens are this rank's own; the merge's
// record then has the mean loss since the last one, and the tokens of all ranks
// that no record has counted.
struct StepRecord {
  std::int64_t step = 0;
  double loss = 0, lr = 0, grad_norm = 0;
  double penalty = 0;  // beside the loss, of methods (Method::add_penalty)
  std::int64_t samples = 0, tokens = 0;  // of all ranks
  double step_ms = 0, data_ms = 0, forward_ms = 0, backward_ms = 0;
  double comm_ms = 0, comm_exposed_ms = 0, optimizer_ms = 0;
  std::int64_t sent_bytes = 0, received_bytes = 0;  // this rank, this step
  std::int64_t peak_tensor_bytes = 0;  // this rank; 0 where nothing is counted
  bool skipped = false;  // not finite: no rank stepped, or (local) not this one
};

struct EvalRecord {
  std::int64_t step = 0;
  std::string split = "eval";
  std::string task{};  // one of several; "": the only one, or all together
  Metrics metrics;
  std::int64_t samples = 0;
  double seconds = 0;
  bool best = false;
};

// One of several tasks, evaluated by itself.
struct TaskEval {
  std::string name;
  std::shared_ptr<const ShardFolder> folder;
  std::vector<std::string> metrics;  // averaged to its score; none: the main
};

struct TrainSummary {
  std::int64_t steps = 0, trainable_parameters = 0, total_parameters = 0;
  std::int64_t head_parameters = 0;  // of the trainable ones
  std::int64_t delta_bytes = 0, payload_bytes_per_step = 0;
  // This rank's, of the exchanges of one step in the mean; nothing where it is
  // not known beforehand.
  std::optional<std::int64_t> predicted_sent_bytes_per_step;
  std::int64_t sent_bytes = 0;  // this rank, whole run
  std::int64_t skipped_steps = 0;
  std::int64_t peak_tensor_bytes = 0;             // of all steps, this rank
  double seconds_to_first_step = 0, seconds = 0;  // since run_training began
  int ranks = 1;
  Digest delta_hash, backbone;
  std::optional<EvalRecord> first, last, best;
  enum class Stop { kDone, kEarly, kSignal } stop = Stop::kDone;
};

// What the run tells the outside; rank 0's observer prints and writes, the
// others' usually do nothing. Called between steps, never concurrently; step()
// after every step, log_every is the observer's to apply.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void begin(const Delta& delta, std::int64_t first_step,
                     std::int64_t steps) {}
  virtual void step(const StepRecord& record) {}
  virtual void eval(const EvalRecord& record) {}
  virtual void phase(std::int64_t step, const Delta& delta) {}
  virtual void checkpoint(std::int64_t step, const std::string& folder) {}
  virtual void progress(std::string_view what, std::int64_t done,
                        std::int64_t of) {}
  virtual void warn(std::string_view message) {}
  virtual void note(std::string_view message) {}
};

struct TrainRun {
  Communicator* comm;
  Backbone* backbone;  // head already added
  Digest identity;     // of the backbone as loaded
  Task* task;
  std::vector<std::unique_ptr<Method>>* methods;
  std::shared_ptr<const ShardFolder> train;
  std::shared_ptr<const ShardFolder> eval;  // may be null
  std::vector<TaskEval> task_evals{};       // several tasks: instead of eval
  TrainOptions options;
  // The run folder: checkpoints/step-N and best/ are written here (rank 0).
  // Empty: nothing is written.
  std::string folder;
  bool resume = false;      // from the newest whole checkpoint, if there is one
  std::string config_text;  // agreed over ranks at start, saved in checkpoints
  TrainObserver* observer = nullptr;
  // Asked between steps: true ends the run with a checkpoint (SIGTERM), or
  // writes one and goes on (SIGUSR1). The ranks' answers are combined.
  enum class Request { kNone, kCheckpoint, kStop };
  Request (*request)() = nullptr;
  // Phase layouts that were agreed elsewhere (a mask file, a delta to start
  // from); else the methods declare it.
  std::optional<Delta> initial_delta;
  // The delta's leaves have memory of their own even if the backbone is in the
  // CPU's, as they have on any other device; the same numbers.
  bool apart = false;
};

// Blocks on all ranks throughout; every rank calls it alike. Throws UsageError
// (before step 1), IoError, CommError, or Error when max_skips is reached.
TrainSummary run_training(TrainRun& run);

}  // namespace thinwire
