#include "launch/adapted_model.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/config_fields.h"
#include "launch/open_run.h"
#include "models/tensor_source.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

std::unique_ptr<Task> task_of_kind(const std::string& kind,
                                   std::int64_t labels) {
  const TaskInfo& info = find_task(kind);
  const bool counts = std::ranges::any_of(
      info.fields, [](const Field& f) { return f.name == "labels"; });
  const ConfigNode given = parse_config_text(
      counts ? fmt::format("{{labels: {}}}", labels) : "{}", kind);
  return info.make(read_fields(&given, "task", info.fields));
}

// By `architectures` of config.json, or what the adapter was made for; null
// for a bare base model.
std::unique_ptr<Task> task_for(const Backbone& backbone,
                               const AdapterHead& adapter) {
  const ModelConfig& config = backbone.config();
  if (config.decoder_layers > 0) return task_of_kind("text_to_text", 0);
  const auto architectures = config.raw.find("architectures");
  const auto made_as = [&](const char* what) {
    return architectures != config.raw.end() &&
           architectures->dump().find(what) != std::string::npos;
  };
  if (!made_as("ForSequenceClassification") && adapter.task_type != "SEQ_CLS" &&
      adapter.labels == 0) {
    const bool text = config.decoder_only &&
                      (made_as("LMHead") || adapter.task_type == "CAUSAL_LM");
    return text ? task_of_kind("lm", 0) : nullptr;
  }
  const std::int64_t labels =
      adapter.labels > 0 ? adapter.labels : config.labels;
  const auto problem = config.raw.find("problem_type");
  const bool regression =
      labels == 1 || (problem != config.raw.end() && *problem == "regression");
  return task_of_kind(regression ? "regress" : "classify", labels);
}

AdaptedModel open_with_head(const ModelChoice& model, const AdapterHead& head,
                            Communicator& comm) {
  OpenModel open = open_model(model, comm);
  AdaptedModel out;
  out.path = model.path;
  out.folder = open.folder;
  out.backbone = std::move(open.backbone);
  out.identity = open.identity;
  out.task = task_for(*out.backbone, head);
  if (out.task != nullptr) {
    const auto source =
        model.path.empty()
            ? random_source(model.seed)
            : open_hf_folder(out.folder, out.backbone->config().architecture);
    out.task->add_head(*out.backbone, *source);
  }
  return out;
}

// The head's last layer comes last.
AdapterHead head_of(const Delta& delta) {
  AdapterHead head;
  for (const DeltaEntry& e : delta.entries()) {
    if (e.head) head.labels = e.shape[0];
  }
  return head;
}

}  // namespace

AdaptedModel open_bare(const std::string& model, Communicator& comm) {
  return open_with_head({.path = model}, {}, comm);
}

AdaptedModel open_adapter(const std::string& model, const std::string& folder,
                          Communicator& comm) {
  AdaptedModel out =
      open_with_head({.path = model}, read_adapter_head(folder), comm);
  AdapterFolder read = read_adapter_folder(folder, *out.backbone);
  out.methods.push_back(std::move(read.method));
  out.delta = std::move(read.delta);
  out.disk = std::move(read.disk);
  return out;
}

AdaptedModel open_delta(const ModelChoice& model, DeltaFile loaded,
                        const std::string& file, Communicator& comm) {
  AdaptedModel out = open_with_head(model, head_of(loaded.delta), comm);
  if (loaded.backbone != out.identity) {
    fail<UsageError>(
        "{}: was made for backbone {}, this model is {}; give the model it was "
        "trained on",
        file, loaded.backbone.hex(), out.identity.hex());
  }
  for (const std::string& text : loaded.delta.method_configs()) {
    const Config config = Config::parse(text);
    out.methods.push_back(
        make_method(config.at("method").get<std::string>(), config));
  }
  out.delta = std::move(loaded.delta);
  return out;
}

AdaptedModel open_delta(const Arguments& arguments, Communicator& comm) {
  const std::string given = arguments.get("DELTA");
  ModelChoice model{.path = arguments.get("model")};
  const fs::path config = fs::path(given) / "config.yaml";
  if (model.path.empty() && fs::exists(config)) {
    const ModelChoice run = load_run_config(config.string(), {}).model;
    model.path = run.path;
    // Random weights, in which case nothing but the delta has what was learned.
    model.config = run.config;
    model.seed = run.seed;
  }
  if (model.path.empty() && model.config.empty()) {
    fail<UsageError>("{}: give --model, the folder of the model it changes",
                     given);
  }
  const std::string file = find_delta(given);
  return open_delta(model, load_delta(file), file, comm);
}

void require_one_rank(std::string_view verb, const Communicator& comm) {
  if (comm.size() == 1) return;
  fail<UsageError>("{}: runs on one rank, not under mpirun -np {}", verb,
                   comm.size());
}

}  // namespace thinwire
