#include "launch/open_run.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "data/task_folders.h"
#include "dist/checkpoint.h"
#include "dist/declare.h"
#include "launch/job.h"
#include "models/tensor_source.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

void check_index(const ShardFolder& folder, std::string_view key,
                 const RunConfig& config, const Backbone& backbone) {
  const ShardIndex& index = folder.index();
  const std::string where = fmt::format("{} {}", key, folder.path());
  if (index.samples == 0) {
    fail<UsageError>("{}: holds no examples", where);
  }
  if (index.task_kind != config.task_kind &&
      !(index.task_kind == "span_corruption" &&
        config.task_kind == "text_to_text")) {
    fail<UsageError>("{}: was prepared for task {}, the config says {}", where,
                     index.task_kind, config.task_kind);
  }
  if (index.vocab_size > backbone.config().vocab_size) {
    fail<UsageError>(
        "{}: was prepared with a tokenizer of {} tokens, the model has {}; "
        "prepare it with the model's own",
        where, index.vocab_size, backbone.config().vocab_size);
  }
  const auto labels = config.task.find("labels");
  if (labels != config.task.end() && labels->is_number_integer() &&
      index.labels > labels->get<std::int64_t>()) {
    fail<UsageError>("{}: has {} classes, task.labels is {}", where,
                     index.labels, labels->dump());
  }
  if (config.max_tokens > 0 && index.max_input > config.max_tokens) {
    fail<UsageError>(
        "{}: its longest input has {} tokens, data.max_tokens is {}; prepare "
        "it with --max-tokens {}",
        where, index.max_input, config.max_tokens, config.max_tokens);
  }
}

std::shared_ptr<const ShardFolder> open_needed(const std::string& path,
                                               std::string_view key, Need need,
                                               const RunConfig& config,
                                               const Backbone& backbone) {
  if (need == Need::kNothing) return nullptr;
  if (path.empty()) {
    if (need == Need::kIfNamed) return nullptr;
    fail<UsageError>(
        "{}: {} is missing: a folder made by "
        "data/prepare.py",
        config.path, key);
  }
  return open_data(path, key, config, backbone);
}

// A head has one meaning for each of its outputs.
void check_label_space(const ShardFolder& folder, std::string_view task,
                       const ShardFolder& first, std::string_view first_task) {
  const ShardIndex &own = folder.index(), &want = first.index();
  if (own.labels == want.labels && own.label_names == want.label_names) return;
  const auto classes = [](const ShardIndex& index) {
    return index.label_names.empty()
               ? fmt::format("{} classes", index.labels)
               : fmt::format("{}", fmt::join(index.label_names, ", "));
  };
  fail<UsageError>(
      "data.train.{} {}: its classes are {}, those of {} are {}; tasks on one "
      "head need the same, so prepare them as text_to_text, or train them "
      "apart",
      task, folder.path(), classes(own), first_task, classes(want));
}

constexpr const char* kTasks = "data.train.";

// Folders of several tasks, their numbers their places.
void open_tasks(OpenRun& run, Need train, Need eval) {
  std::vector<std::shared_ptr<const ShardFolder>> folders;
  std::shared_ptr<const ShardFolder> first;
  const auto& tasks = run.config.tasks;
  const auto open = [&](const TaskData& task, const std::string& path,
                        const std::string& key) {
    auto folder = open_data(path, key, run.config, *run.backbone);
    if (first == nullptr) first = folder;
    check_label_space(*folder, key.substr(std::string_view(kTasks).size()),
                      *first, tasks.front().name);
    return folder;
  };
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const TaskData& task = tasks[i];
    const std::string key = kTasks + task.name;
    if (train != Need::kNothing) folders.push_back(open(task, task.train, key));
    if (eval == Need::kNothing || task.eval.empty()) continue;
    run.task_evals.push_back({task.name,
                              as_task(open(task, task.eval, key + ".eval"),
                                      static_cast<std::int32_t>(i)),
                              task.metrics});
  }
  if (!folders.empty()) run.train = join_task_folders(folders);
  if (eval == Need::kRequired && run.task_evals.empty()) {
    fail<UsageError>("{}: no task has an eval: data.train.NAME.eval, a folder",
                     run.config.path);
  }
}

void apply_settings(const RunConfig& config) {
  // Threads cut sums and products: the same bits need the same number.
  const bool one_thread = config.train.deterministic && config.threads == 0;
  set_threads(one_thread ? 1 : config.threads);
  set_reference_ops(config.reference_ops);
}

std::optional<std::string> delta_in(const std::string& path) {
  if (!fs::is_directory(path)) return path;
  for (const char* name : {"delta.safetensors", "best/delta.safetensors"}) {
    const fs::path file = fs::path(path) / name;
    if (fs::exists(file)) return file.string();
  }
  std::vector<std::string> skipped;
  if (const auto newest = newest_checkpoint(
          (fs::path(path) / "checkpoints").string(), &skipped)) {
    return (fs::path(*newest) / "delta.safetensors").string();
  }
  return std::nullopt;
}

// The config's methods are what acts on the delta's numbers.
void require_methods(const OpenRun& run, const Delta& delta,
                     const std::string& file) {
  std::vector<std::string> made, listed;
  for (const std::string& config : delta.method_configs()) {
    made.push_back(Config::parse(config).at("method").get<std::string>());
  }
  for (const auto& method : run.methods) listed.emplace_back(method->id());
  if (made == listed) return;
  fail<UsageError>("{}: was made by {}, the peft of {} is {}", file,
                   fmt::join(made, ", "), run.config.path,
                   fmt::join(listed, ", "));
}

}  // namespace

std::shared_ptr<const ShardFolder> open_data(const std::string& path,
                                             std::string_view key,
                                             const RunConfig& config,
                                             const Backbone& backbone) {
  auto folder = open_shard_folder(path);
  check_index(*folder, key, config, backbone);
  return folder;
}

void agree_config(Communicator& comm, RunConfig& config) {
  agree_text(comm, "the configuration", config.agreed_text);
  const auto bytes = comm.broadcast_bytes(std::as_bytes(std::span(config.text)),
                                          0, {.tag = "the configuration"});
  config.text.assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

OpenRun open_run(RunConfig config, Need train, Need eval, Communicator& comm) {
  OpenRun run;
  run.config = std::move(config);
  apply_settings(run.config);
  run.model = open_model(run.config.model, comm);
  run.backbone = std::move(run.model.backbone);
  run.identity = run.model.identity;
  if (run.config.tasks.empty()) {
    run.train = open_needed(run.config.train_data, "data.train", train,
                            run.config, *run.backbone);
    run.eval = open_needed(run.config.eval_data, "data.eval", eval, run.config,
                           *run.backbone);
  } else {
    open_tasks(run, train, eval);
  }
  run.task = make_task(run.config);
  const auto source = run.model.folder.empty()
                          ? random_source(run.config.model.seed)
                          : open_hf_folder(run.model.folder,
                                           run.backbone->config().architecture);
  run.task->add_head(*run.backbone, *source);
  run.methods = make_methods(run.config);
  return run;
}

std::string find_delta(const std::string& path) {
  auto file = delta_in(path);
  if (!file) {
    fail<UsageError>(
        "{}: holds no delta (a run folder has best/ or checkpoints/step-N/)",
        path);
  }
  return *std::move(file);
}

bool holds_delta(const std::string& path) {
  const auto file = delta_in(path);
  return file && fs::exists(*file);
}

Delta load_saved_delta(const OpenRun& run, const std::string& path,
                       std::string* found) {
  if (path.empty() && run.config.output.empty()) {
    fail<UsageError>("{}: names no output; give --delta", run.config.path);
  }
  const std::string file = find_delta(path.empty() ? run.config.output : path);
  DeltaFile loaded = load_delta(file);
  if (loaded.backbone != run.identity) {
    fail<UsageError>(
        "{}: was made for backbone {}, this model is {}; give the model it was "
        "trained on",
        file, loaded.backbone.hex(), run.identity.hex());
  }
  require_methods(run, loaded.delta, file);
  if (found != nullptr) *found = file;
  return std::move(loaded.delta);
}

Delta attach_saved_delta(OpenRun& run, const std::string& path) {
  Delta delta = load_saved_delta(run, path);
  place_delta(*run.backbone, delta);
  attach_delta(*run.backbone, run.methods, delta);
  return delta;
}

}  // namespace thinwire
