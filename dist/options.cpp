#include "dist/options.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "dist/schedule.h"
#include "dist/virtual_shards.h"

namespace thinwire {
namespace {

void at_least(const char* key, double value, double low) {
  if (value >= low) return;  // NaN fails too
  fail<UsageError>("train.{}: must be at least {}, got {}", key, low, value);
}

void above(const char* key, double value, double low) {
  if (value > low && std::isfinite(value)) return;
  fail<UsageError>("train.{}: must be above {}, got {}", key, low, value);
}

void fraction(const char* key, double value) {
  if (value >= 0 && value < 1) return;
  fail<UsageError>("train.{}: must be in [0, 1), got {}", key, value);
}

void check_adafactor(const TrainOptions& o) {
  above("clip_threshold", o.clip_threshold, 0);
  above("epsilon1", o.epsilon1, 0);
  above("epsilon2", o.epsilon2, 0);
  if (!(o.decay_rate < 0 && o.decay_rate >= -1)) {
    fail<UsageError>("train.decay_rate: must be in [-1, 0), got {}",
                     o.decay_rate);
  }
  if (o.beta2) {
    fail<UsageError>(
        "train.beta2: adafactor's decay is 1 - step^decay_rate; set "
        "train.decay_rate");
  }
  if (o.warmup_init && !o.relative_step) {
    fail<UsageError>("train.warmup_init: needs train.relative_step: true");
  }
  if (o.relative_step && (o.lr != 1 || o.warmup != 0 ||
                          parse_schedule(o.schedule) != Schedule::kConstant)) {
    fail<UsageError>(
        "train.relative_step: makes its own rate; set train.lr: 1, "
        "train.schedule: constant and train.warmup: 0");
  }
}

void check_optimizer(const TrainOptions& o) {
  const std::vector<std::string> names = {"adamw", "sgd", "lion", "adafactor"};
  if (std::ranges::find(names, o.optimizer) == names.end()) {
    fail<UsageError>("train.optimizer: '{}' is unknown; choose one of: {}",
                     o.optimizer, list_nearest_first(o.optimizer, names));
  }
  fraction("beta1", o.beta1.value_or(0));
  fraction("beta2", o.beta2.value_or(0));
  above("epsilon", o.epsilon, 0);
  fraction("momentum", o.momentum);
  if (o.nesterov && o.momentum == 0) {
    fail<UsageError>("train.nesterov: needs train.momentum above 0");
  }
  at_least("weight_decay", o.weight_decay, 0);
  if (o.optimizer == "adafactor") check_adafactor(o);
}

}  // namespace

void check_exchange(const ExchangeOptions& o) {
  using What = ExchangeOptions::What;
  const auto refuse = [](bool wrong, const char* why) {
    if (wrong) fail<UsageError>("comm.{}", why);
  };
  refuse(o.sync_every < 1, "sync_every: must be at least 1");
  refuse(o.bucket_bytes < 0, "bucket_bytes: must be at least 0");
  refuse(!(o.outer_lr > 0) || !std::isfinite(o.outer_lr),
         "outer_lr: must be above 0");
  refuse(!(o.outer_momentum >= 0 && o.outer_momentum < 1),
         "outer_momentum: must be in [0, 1)");
  refuse(!(o.density > 0 && o.density <= 1), "density: must be in (0, 1]");
  refuse(!o.local() && (o.outer_lr != 1 || o.outer_momentum != 0),
         "outer_lr, comm.outer_momentum: the outer optimizer acts at merges; "
         "set comm.sync_every above 1");
  refuse(o.what == What::kDense && o.codec != Codec::kFp32,
         "exchange: dense is the plain exchange to compare with; set "
         "comm.codec: fp32");
  refuse(o.what == What::kTopK && o.codec != Codec::kFp32,
         "exchange: top_k sends fp32 numbers with positions; set comm.codec: "
         "fp32");
  refuse(o.what == What::kTopK && !o.error_feedback,
         "exchange: top_k keeps what it does not send for the next exchange; "
         "set comm.error_feedback: true");
  refuse(o.algorithm == Algorithm::kMpi && o.codec != Codec::kFp32,
         "algorithm: mpi adds fp32 numbers; set comm.codec: fp32");
}

// What rounds or averages would do so differently with other ranks.
void check_deterministic(const ExchangeOptions& o) {
  using What = ExchangeOptions::What;
  if (o.codec != Codec::kFp32 || o.local() || o.what != What::kDelta) {
    fail<UsageError>(
        "train.deterministic: needs comm.codec: fp32, comm.sync_every: 1, "
        "comm.workers: identical and comm.exchange: delta");
  }
  if (o.algorithm != Algorithm::kAuto &&
      o.algorithm != VirtualShards::kAlgorithm) {
    fail<UsageError>(
        "train.deterministic: needs comm.algorithm: halving_doubling (or "
        "auto), which adds in the order of its tree, got {}",
        name_of(o.algorithm));
  }
}

void check_options(const TrainOptions& o) {
  at_least("steps", static_cast<double>(o.steps), 0);
  at_least("epochs", o.epochs, 0);
  if (o.steps == 0 && o.epochs == 0) {
    fail<UsageError>("train.steps: must be at least 1, or set train.epochs");
  }
  if (o.batch_size < 1) {
    fail<UsageError>("data.batch_size: must be at least 1, got {}",
                     o.batch_size);
  }
  at_least("accumulation", static_cast<double>(o.accumulation), 1);
  at_least("lr", o.lr, 0);
  if (!std::isfinite(o.lr)) fail<UsageError>("train.lr: must be finite");
  check_optimizer(o);
  at_least("clip", o.clip, 0);
  parse_schedule(o.schedule);
  at_least("warmup", static_cast<double>(o.warmup), 0);
  at_least("eval_every", static_cast<double>(o.eval_every), 0);
  at_least("eval_samples", static_cast<double>(o.eval_samples), 0);
  at_least("eval_batch_size", static_cast<double>(o.eval_batch_size), 0);
  at_least("checkpoint_every", static_cast<double>(o.checkpoint_every), 0);
  at_least("keep", static_cast<double>(o.keep), 1);
  at_least("patience", static_cast<double>(o.patience), 0);
  at_least("max_skips", static_cast<double>(o.max_skips), 1);
  if (o.dropout >= 0) fraction("dropout", o.dropout);
  check_exchange(o.exchange);
  if (o.deterministic) check_deterministic(o.exchange);
  if (o.state_policy == StatePolicy::kRewind) {
    fail<UsageError>(
        "train.state_policy: 'rewind' is for methods, which ask for it by "
        "themselves; choose carry, reset or drop");
  }
}

VirtualShards virtual_shards(const TrainOptions& o, int ranks) {
  return {o.virtual_shards, o.batch_size * o.accumulation * ranks, ranks};
}

LoaderOptions loader_options(const TrainOptions& o, int rank, int ranks) {
  return {.batch_size = loader_batch(o),
          .rank = rank,
          .ranks = ranks,
          .seed = o.data_seed,
          .bucket_window = o.bucket_window,
          .queue_batches = o.queue_batches,
          .mixing = o.mixing,
          .batches_per_step = o.batch_size * o.accumulation / loader_batch(o)};
}

std::int64_t loader_batch(const TrainOptions& o) {
  return o.deterministic ? o.batch_size * o.accumulation : o.batch_size;
}

std::int64_t eval_batch(const TrainOptions& o, int ranks) {
  if (o.eval_batch_size > 0) return o.eval_batch_size;
  return o.deterministic ? virtual_shards(o, ranks).samples() : o.batch_size;
}

std::int64_t total_steps(const TrainOptions& o, std::int64_t samples,
                         int ranks) {
  if (o.steps > 0) return o.steps;
  const double per_step =
      static_cast<double>(o.batch_size * o.accumulation * ranks);
  const double steps =
      std::ceil(o.epochs * static_cast<double>(samples) / per_step - 1e-9);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(steps));
}

}  // namespace thinwire
