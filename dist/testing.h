// What the tests of this folder share: tiny models with random weights, folders
// of samples in memory, runs over ranks that are threads, records of what a run
// told its observer.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/temp_folder.h"
#include "comm/communicator.h"
#include "comm/threads.h"
#include "dist/durable.h"
#include "dist/trainer.h"
#include "peft/field_values.h"

namespace thinwire::trial {

inline std::string bert_config(double dropout) {
  return R"({"model_type": "bert", "architectures": ["BertModel"],
    "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 24, "type_vocab_size": 2,
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "pad_token_id": 0,
    "initializer_range": 0.2, "num_labels": 3, "hidden_dropout_prob": )" +
         std::to_string(dropout) + R"(, "attention_probs_dropout_prob": )" +
         std::to_string(dropout) + "}";
}

inline std::string gpt2_config(double dropout) {
  const std::string p = std::to_string(dropout);
  return R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
    "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_inner": 24,
    "n_positions": 32, "initializer_range": 0.2, "eos_token_id": 1,
    "resid_pdrop": )" +
         p + R"(, "embd_pdrop": )" + p + R"(, "attn_pdrop": )" + p + "}";
}

inline std::string t5_config(double dropout) {
  return R"({"model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"], "vocab_size": 40,
    "d_model": 16, "d_kv": 6, "num_heads": 2, "d_ff": 24, "num_layers": 2,
    "num_decoder_layers": 1, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu", "initializer_factor": 1.0,
    "tie_word_embeddings": true, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 0, "dropout_rate": )" +
         std::to_string(dropout) + "}";
}

inline std::string bart_config(double dropout) {
  const std::string p = std::to_string(dropout);
  return R"({"model_type": "bart",
    "architectures": ["BartForConditionalGeneration"], "vocab_size": 40,
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 1,
    "encoder_attention_heads": 2, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 20,
    "max_position_embeddings": 24, "activation_function": "gelu",
    "init_std": 0.2, "pad_token_id": 0, "eos_token_id": 1,
    "decoder_start_token_id": 1, "dropout": )" +
         p + R"(, "attention_dropout": )" + p + R"(, "activation_dropout": )" +
         p + "}";
}

// Samples held in memory; a folder with an index.json stands for them on disk,
// because runs agree on its hash.
class MemoryFolder : public ShardFolder {
 public:
  MemoryFolder(std::vector<Sample> samples, ShardIndex index)
      : samples_(std::move(samples)), index_(std::move(index)) {
    index_.samples = static_cast<std::int64_t>(samples_.size());
    Hasher h;
    for (const Sample& s : samples_) {
      lengths_.push_back(
          static_cast<std::int32_t>(s.input.size() + s.target.size()));
      h.number(static_cast<std::int64_t>(s.id)).number(s.label);
      for (const std::int32_t t : s.input) h.number(std::int64_t{t});
      for (const std::int32_t t : s.target) h.number(std::int64_t{t});
    }
    write_file(folder_ / "index.json", h.digest().hex());
  }
  const ShardIndex& index() const override { return index_; }
  const std::string& path() const override { return folder_.path(); }
  std::vector<Sample> read(std::int64_t first,
                           std::int64_t count) const override {
    return {samples_.begin() + first, samples_.begin() + first + count};
  }
  std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const override {
    std::vector<Sample> out;
    for (const std::int64_t i : ascending) out.push_back(read(i, 1)[0]);
    return out;
  }
  References references(std::int64_t, std::int64_t) const override {
    return {};
  }
  const std::vector<std::int32_t>& lengths() const override { return lengths_; }
  std::vector<std::int32_t> lengths(std::int64_t first,
                                    std::int64_t count) const override {
    return {lengths_.begin() + first, lengths_.begin() + first + count};
  }
  void verify() const override {}
  const std::vector<std::string>& vocabulary() const override { return none_; }

 private:
  TempFolder folder_;
  std::vector<Sample> samples_;
  ShardIndex index_;
  std::vector<std::int32_t> lengths_;
  std::vector<std::string> none_;
};

// Ragged samples; the label is a function of the tokens, so there is something
// to learn. text: with ragged targets, else classes 0, 1, 2.
inline std::shared_ptr<const ShardFolder> make_folder(std::int64_t n, bool text,
                                                      std::uint64_t seed = 1) {
  std::vector<Sample> samples;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto draw = [&](std::uint32_t at) {
      return philox(make_key(seed, Purpose::kTest),
                    {at, static_cast<std::uint32_t>(i), 0, 0})[0];
    };
    Sample s;
    s.id = static_cast<std::uint64_t>(1000 + i);
    s.input.push_back(2);
    for (std::uint32_t j = 0; j < 1 + draw(0) % 12; ++j) {
      s.input.push_back(static_cast<std::int32_t>(3 + draw(10 + j) % 36));
    }
    if (text) {
      for (std::uint32_t j = 0; j < draw(1) % 8; ++j) {
        s.target.push_back(s.input[1 + j % (s.input.size() - 1)]);
      }
      s.input.push_back(1);
      s.target.push_back(1);
    } else {
      s.label = s.input[1] % 3;
    }
    samples.push_back(std::move(s));
  }
  ShardIndex index;
  index.task_kind = text ? "text_to_text" : "classify";
  index.labels = text ? 0 : 3;
  index.vocab_size = 40;
  index.eos_id = text ? 1 : -1;
  index.max_input = 14;
  index.max_target = text ? 8 : 0;
  return std::make_shared<MemoryFolder>(std::move(samples), index);
}

// What the observer of one rank saw.
struct Recorder : TrainObserver {
  std::vector<StepRecord> steps;
  std::vector<EvalRecord> evals;
  std::vector<std::int64_t> phases, checkpoints;
  std::vector<std::string> warnings;
  std::function<void()> on_begin;
  std::function<void(const StepRecord&)> on_step;
  std::function<void(const EvalRecord&)> on_eval;
  const Delta* delta = nullptr;

  void begin(const Delta& d, std::int64_t, std::int64_t) override {
    delta = &d;
    if (on_begin) on_begin();
  }
  void step(const StepRecord& r) override {
    steps.push_back(r);
    if (on_step) on_step(r);
  }
  void eval(const EvalRecord& r) override {
    evals.push_back(r);
    if (on_eval) on_eval(r);
  }
  void phase(std::int64_t step, const Delta&) override {
    phases.push_back(step);
  }
  void checkpoint(std::int64_t step, const std::string&) override {
    checkpoints.push_back(step);
  }
  void warn(std::string_view text) override { warnings.emplace_back(text); }
};

// Everything a run needs, built anew on each rank, as in a real job.
struct Job {
  std::string model = bert_config(0.1);
  bool text = false;
  std::vector<std::pair<std::string, Config>> methods;
  std::shared_ptr<const ShardFolder> train, eval;
  TrainOptions options;
  std::string folder;
  bool resume = false;
  std::string config_text = "a config";
  std::uint64_t model_seed = 1;
  // Changes this rank's run before it begins; its thread is the rank's.
  std::function<void(TrainRun&, int rank)> edit;
  std::function<std::unique_ptr<Task>(std::unique_ptr<Task>, int rank)> wrap;
  std::function<void()> on_begin;
  std::function<void(const StepRecord&, int rank)> on_step;
  TrainRun::Request (*request)() = nullptr;
};

struct Result {
  TrainSummary summary;
  Recorder seen;
  std::vector<float> values;  // of the delta at the end
  // Of every slot, without what the delta replaces: before and after.
  std::map<std::string, Digest> frozen_before, frozen_after;
};

inline Digest tensor_digest(const at::Tensor& t) {
  return hash128({static_cast<const std::byte*>(t.const_data_ptr()),
                  static_cast<std::size_t>(t.nbytes())});
}

inline void zero_at(at::Tensor& t, const at::Tensor& index) {
  for (std::int64_t i = 0; i < index.numel(); ++i) {
    t.mutable_data_ptr<float>()[index.const_data_ptr<std::int32_t>()[i]] = 0;
  }
}

inline std::unique_ptr<Task> make_tiny_task(
    bool text, TaskConfig given = TaskConfig::object(),
    bool decoder_only = false) {
  const char* kind = !text ? "classify" : decoder_only ? "lm" : "text_to_text";
  const TaskInfo& info = find_task(kind);
  if (!text) given["labels"] = 3;
  return info.make(complete_fields(kind, info.fields, given));
}

inline Result run_job(const Job& job, Communicator& comm) {
  TempFolder scratch;
  write_file(scratch / "config.json", job.model);
  auto backbone = random_backbone(scratch / "config.json", job.model_seed);
  const Digest identity = backbone->parameters().identity();
  auto task = make_tiny_task(job.text, TaskConfig::object(),
                             backbone->config().decoder_only);
  const auto source = random_source(job.model_seed);
  task->add_head(*backbone, *source);
  if (job.wrap) task = job.wrap(std::move(task), comm.rank());
  std::vector<std::unique_ptr<Method>> methods;
  for (const auto& [id, config] : job.methods) {
    methods.push_back(make_method(id, config));
  }
  Result result;
  const Parameters& p = backbone->parameters();
  std::vector<at::Tensor> before;
  for (int i = 0; i < p.size(); ++i) {
    before.push_back(p.slot(i).frozen.clone());
  }
  TrainRun run{.comm = &comm,
               .backbone = backbone.get(),
               .identity = identity,
               .task = task.get(),
               .methods = &methods,
               .train = job.train,
               .eval = job.eval,
               .options = job.options,
               .folder = job.folder,
               .resume = job.resume,
               .config_text = job.config_text,
               .observer = &result.seen,
               .request = job.request,
               .initial_delta = std::nullopt};
  result.seen.on_begin = job.on_begin;
  if (job.edit) job.edit(run, comm.rank());
  // The delta lives as long as the run: its values are read at the last moment.
  result.seen.on_step = [&](const StepRecord& r) {
    if (job.on_step) job.on_step(r, comm.rank());
    const at::Tensor& v = result.seen.delta->values();
    const float* data = v.const_data_ptr<float>();
    result.values.assign(data, data + v.numel());
  };
  result.summary = run_training(run);
  for (int i = 0; i < p.size(); ++i) {
    const Parameters::Slot& slot = p.slot(i);
    if (slot.leaf.defined()) continue;
    at::Tensor now = slot.frozen.clone();
    if (slot.index.defined()) {
      zero_at(now, slot.index);
      zero_at(before[static_cast<std::size_t>(i)], slot.index);
    }
    result.frozen_after[slot.name] = tensor_digest(now);
    result.frozen_before[slot.name] =
        tensor_digest(before[static_cast<std::size_t>(i)]);
  }
  return result;
}

// On `ranks` threads; results by rank.
inline std::vector<Result> run_job(const Job& job, int ranks) {
  std::vector<Result> results(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    results[static_cast<std::size_t>(comm.rank())] = run_job(job, comm);
  });
  return results;
}

}  // namespace thinwire::trial
