// thinwire forward: one pass over given tensors, for comparison with another
// implementation. Names in and out are those of Hugging Face.
#include <ATen/core/Tensor.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/declare.h"
#include "launch/config_fields.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/verbs/verbs.h"
#include "models/hf_inputs.h"
#include "models/tensor_source.h"
#include "peft/interop/hf_adapter.h"

namespace thinwire {
namespace {

struct Setup {
  std::unique_ptr<Backbone> backbone;
  std::unique_ptr<Task> task;  // null: the bare base model
  std::vector<std::unique_ptr<Method>> methods;
  std::optional<Delta> delta;
  std::map<std::string, std::string> names;  // of delta entries: in the output
};

std::unique_ptr<Task> task_of_kind(const std::string& kind,
                                   std::int64_t labels) {
  const TaskInfo& info = find_task(kind);
  const bool counts = std::ranges::any_of(
      info.fields, [](const Field& f) { return f.name == "labels"; });
  const ConfigNode given = parse_config_text(
      counts ? fmt::format("{{labels: {}}}", labels) : "{}", "forward");
  return info.make(read_fields(&given, "task", info.fields));
}

// By `architectures` of config.json, or what the adapter was made for; null
// for a bare base model.
std::unique_ptr<Task> task_for(const Backbone& backbone,
                               const HfAdapterHead& adapter) {
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

void use_delta_file(Setup& setup, const std::string& path,
                    const Digest& identity) {
  DeltaFile file = load_delta(path);
  if (file.backbone != identity) {
    fail<UsageError>("{}: was made for backbone {}, this model is {}", path,
                     file.backbone.hex(), identity.hex());
  }
  for (const std::string& text : file.delta.method_configs()) {
    const Config config = Config::parse(text);
    setup.methods.push_back(
        make_method(config.at("method").get<std::string>(), config));
  }
  setup.delta = std::move(file.delta);
}

void use_method(Setup& setup, const std::string& id) {
  setup.methods.push_back(make_method(id, Config::object()));
  setup.delta = declare_delta(*setup.backbone, setup.methods, {});
}

Setup set_up(const Arguments& arguments, Communicator& comm) {
  const std::string model = arguments.get("model");
  const std::string adapter = arguments.get("adapter");
  const std::string trainable = arguments.get("trainable");
  if (arguments.has("adapter") + arguments.has("delta") +
          arguments.has("trainable") >
      1) {
    fail<UsageError>("forward: give one of --adapter, --delta, --trainable");
  }
  if (!trainable.empty() && trainable != "full") {
    fail<UsageError>("forward: --trainable is '{}'; only full is known",
                     trainable);
  }
  OpenModel open = open_model({.path = model}, comm);
  Setup setup;
  setup.backbone = std::move(open.backbone);
  setup.task = task_for(*setup.backbone, adapter.empty()
                                             ? HfAdapterHead{}
                                             : read_hf_adapter_head(adapter));
  if (setup.task != nullptr) {
    const auto source =
        open_hf_folder(open.folder, setup.backbone->config().architecture);
    setup.task->add_head(*setup.backbone, *source);
  }
  if (!adapter.empty()) {
    HfAdapter read = read_hf_adapter(adapter, *setup.backbone);
    setup.methods.push_back(std::move(read.method));
    setup.delta = std::move(read.delta);
    setup.names = std::move(read.names);
  } else if (arguments.has("delta")) {
    use_delta_file(setup, arguments.get("delta"), open.identity);
  } else if (!trainable.empty()) {
    use_method(setup, trainable);
  }
  if (setup.delta) {
    attach_delta(*setup.backbone, setup.methods, *setup.delta);
  }
  return setup;
}

NamedTensors read_inputs(const std::string& path) {
  const SafetensorsFile file(path);
  NamedTensors tensors;
  for (const std::string& name : file.names()) {
    tensors.emplace_back(name, file.tensor(name));
  }
  return tensors;
}

void base_outputs(Setup& setup, const HfBatch& batch, const ForwardContext& ctx,
                  NamedTensors& out) {
  const BackboneOutput result = setup.backbone->forward(batch.input, ctx);
  out.emplace_back("last_hidden_state", batch.encoder.pad(result.hidden));
  const bool pooler = std::ranges::any_of(
      setup.backbone->sites(),
      [](const Site& site) { return site.role == Role::kPooler; });
  if (pooler && !batch.encoder.first_hidden) {
    out.emplace_back("pooler_output", setup.backbone->pooled(result, ctx));
  }
}

// Returns the loss, undefined without labels.
at::Tensor task_outputs(Setup& setup, const HfBatch& batch,
                        const ForwardContext& ctx, NamedTensors& out) {
  at::Tensor logits = setup.task->logits(*setup.backbone, batch.input, ctx);
  const HfCells* cells = nullptr;  // of logits that belong to tokens
  if (setup.task->kind() == "text_to_text") cells = &batch.decoder;
  if (setup.task->kind() == "lm") cells = &batch.encoder;
  out.emplace_back("logits", cells != nullptr ? cells->pad(logits) : logits);
  if (!batch.input.labels.defined()) return {};
  const LossTerms terms = setup.task->loss(*setup.backbone, batch.input, ctx);
  const at::Tensor loss = terms.sum.div(terms.weight);
  out.emplace_back("loss", loss);
  return loss;
}

void add_gradients(Setup& setup, const at::Tensor& loss, NamedTensors& out) {
  if (!setup.delta) {
    fail<UsageError>(
        "forward: --grads needs something that trains: --adapter, "
        "--delta or --trainable full");
  }
  if (!loss.defined()) {
    fail<UsageError>(
        "forward: --grads needs a loss: give `labels` and a model "
        "with a head");
  }
  Delta& delta = *setup.delta;
  delta.zero_grads();
  loss.backward();
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const DeltaEntry& entry = delta.entries()[i];
    const auto renamed = setup.names.find(entry.name);
    const std::string& name = renamed != setup.names.end() ? renamed->second
                              : entry.target.empty()       ? entry.name
                                                           : entry.target;
    const at::Tensor grad =
        delta.grads().narrow(0, entry.offset, entry.count).clone();
    out.emplace_back(
        fmt::format("grad.{}", name),
        entry.kind == EntryKind::kDense ? grad.reshape(entry.shape) : grad);
  }
}

int run(const Arguments& arguments, Communicator& comm) {
  if (comm.size() > 1) {
    fail<UsageError>("forward: runs on one rank, not under mpirun -np {}",
                     comm.size());
  }
  set_threads(0);
  Setup setup = set_up(arguments, comm);
  const HfBatch batch = read_hf_inputs(read_inputs(arguments.get("inputs")),
                                       setup.backbone->config());
  ForwardContext ctx;
  ctx.tasks = batch.input.tasks;
  NamedTensors out;
  at::Tensor loss;
  if (setup.task == nullptr) {
    base_outputs(setup, batch, ctx, out);
  } else {
    loss = task_outputs(setup, batch, ctx, out);
  }
  if (arguments.has("grads")) add_gradients(setup, loss, out);
  for (auto& [name, tensor] : out) tensor = tensor.detach().contiguous();
  write_safetensors(arguments.get("outputs"), out);
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"--model DIR", "a Hugging Face folder", true},
    {"--adapter DIR", "a LoRA folder of HF peft"},
    {"--delta FILE", "a delta of Thinwire"},
    {"--inputs FILE", "input_ids, attention_mask, labels, … (.safetensors)",
     true},
    {"--outputs FILE", "logits, loss or hidden states (.safetensors)", true},
    {"--grads", "also grad.NAME of every trainable parameter"},
    {"--trainable WHAT", "full: every parameter of the model"},
};

}  // namespace

constexpr Verb kForwardVerb{
    "forward", "logits, loss and gradients of given tensors",
    "Inputs are the tensors that HF's forward takes, by its names. Nothing is\n"
    "dropped out. Outputs: logits and loss, or last_hidden_state and\n"
    "pooler_output of a bare base model.\n"
    "Example:\n"
    "  thinwire forward --model DIR --trainable full --grads \\\n"
    "    --inputs in.safetensors --outputs out.safetensors",
    kOptions, &run};

}  // namespace thinwire
