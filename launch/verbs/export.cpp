// thinwire export: a delta in another library's form.
#include <algorithm>
#include <cstdio>
#include <iterator>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/adapted_model.h"
#include "launch/job.h"
#include "launch/verbs/verbs.h"
#include "peft/interop/weights_file.h"

namespace thinwire {
namespace {

constexpr std::string_view kForms[] = {"peft", "adapterhub", "full", "sparse"};

std::string form_of(const Arguments& arguments, const AdaptedModel& model) {
  std::string form = arguments.get("format");
  if (arguments.has("sparse")) {
    if (!form.empty() && form != "sparse") {
      fail<UsageError>("export: --sparse and --format {} are two forms", form);
    }
    return "sparse";
  }
  if (!form.empty()) {
    if (std::ranges::find(kForms, form) == std::end(kForms)) {
      fail<UsageError>("export: --format is '{}', choose one of: {}", form,
                       fmt::join(kForms, ", "));
    }
    return form;
  }
  for (const auto& method : model.methods) {
    const auto libraries = adapter_libraries(method->id());
    if (!libraries.empty()) return std::string(libraries[0]);
  }
  return "full";
}

int run(const Arguments& arguments, Communicator& comm) {
  require_one_rank("export", comm);
  set_threads(0);
  AdaptedModel model = open_delta(arguments, comm);
  const std::string output = arguments.get("output");
  const std::string form = form_of(arguments, model);
  if (form == "peft" || form == "adapterhub") {
    write_adapter_folder(output, *model.delta, *model.backbone,
                         {.library = form,
                          .model_path = model.path,
                          .name = arguments.get("name", "thinwire")});
  } else {
    Parameters& parameters = model.backbone->parameters();
    model.delta->bind(parameters);
    write_weights_file(
        output, *model.delta, parameters, model.identity,
        form == "full" ? WeightsForm::kFull : WeightsForm::kSparse);
  }
  std::printf("%s: %s\n", output.c_str(), form.c_str());
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"DELTA", "a delta file, or a checkpoint or run folder", true},
    {"--model DIR", "the model it was trained on (default: the run's)"},
    {"--output PATH", "a new folder; of full and sparse a file", true},
    {"--format NAME",
     "peft, adapterhub, full or sparse (default: the library that has such an "
     "adapter, else full)"},
    {"--sparse", "the same as --format sparse"},
    {"--name NAME", "of the adapter, where the library has one"},
};

}  // namespace

constexpr Verb kExportVerb{
    "export", "a delta as a folder of HF peft or AdapterHub, or as tensors",
    "peft: LoRA, (IA)^3, prompt and prefix tuning, a trained head beside "
    "them.\n"
    "adapterhub: Houlsby, Pfeiffer, parallel, PHM and Compacter adapters. "
    "full\n"
    "and sparse: what trains the model's own tensors (masks, biases, heads,\n"
    "full fine-tuning), whole or as positions and values. docs/interop.md has\n"
    "every form in full.\n"
    "Example:\n"
    "  thinwire export runs/quickstart/lora --output my_adapter\n"
    "  thinwire export delta.safetensors --model MODEL_DIR --format adapterhub "
    "\\\n"
    "    --name sst2 --output my_adapter\n"
    "  thinwire export runs/quickstart/fish --sparse --output "
    "fish.safetensors",
    kOptions, &run};

}  // namespace thinwire
