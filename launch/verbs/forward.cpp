// thinwire forward: one pass over given tensors, for comparison with another
// implementation. Names in and out are those of Hugging Face.
#include <ATen/core/Tensor.h>

#include <algorithm>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/declare.h"
#include "launch/adapted_model.h"
#include "launch/job.h"
#include "launch/verbs/verbs.h"
#include "models/hf_inputs.h"

namespace thinwire {
namespace {

void use_method(AdaptedModel& setup, const std::string& id) {
  setup.methods.push_back(make_method(id, Config::object()));
  setup.delta = declare_delta(*setup.backbone, setup.methods, {});
}

AdaptedModel set_up(const Arguments& arguments, Communicator& comm) {
  const std::string model = arguments.get("model");
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
  const std::string delta = arguments.get("delta");
  AdaptedModel setup =
      arguments.has("adapter")
          ? open_adapter(model, arguments.get("adapter"), comm)
      : arguments.has("delta")
          ? open_delta({.path = model}, load_delta(delta), delta, comm)
          : open_bare(model, comm);
  if (!trainable.empty()) use_method(setup, trainable);
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

void base_outputs(AdaptedModel& setup, const HfBatch& batch,
                  const ForwardContext& ctx, NamedTensors& out) {
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
at::Tensor task_outputs(AdaptedModel& setup, const HfBatch& batch,
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

void add_gradients(AdaptedModel& setup, const at::Tensor& loss,
                   NamedTensors& out) {
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
  if (!setup.disk.empty()) {
    for (auto& [file, tensors] : pack(setup.disk, delta, delta.grads())) {
      for (auto& [name, grad] : tensors) {
        out.emplace_back("grad." + name, std::move(grad));
      }
    }
    return;
  }
  for (const DeltaEntry& entry : delta.entries()) {
    const std::string& name = entry.target.empty() ? entry.name : entry.target;
    const at::Tensor grad =
        delta.grads().narrow(0, entry.offset, entry.count).clone();
    out.emplace_back(
        fmt::format("grad.{}", name),
        entry.kind == EntryKind::kDense ? grad.reshape(entry.shape) : grad);
  }
}

int run(const Arguments& arguments, Communicator& comm) {
  require_one_rank("forward", comm);
  set_threads(0);
  AdaptedModel setup = set_up(arguments, comm);
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
    {"--adapter DIR", "an adapter of HF peft or AdapterHub"},
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
