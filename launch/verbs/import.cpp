// thinwire import: an adapter of another library as a delta.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/adapted_model.h"
#include "launch/job.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

int run(const Arguments& arguments, Communicator& comm) {
  require_one_rank("import", comm);
  set_threads(0);
  const AdaptedModel model =
      open_adapter(arguments.get("model"), arguments.get("FOLDER"), comm);
  const std::string output = arguments.get("output");
  save_delta(output, *model.delta, model.identity);
  std::printf("%s%s\n", describe_delta(*model.delta).c_str(), output.c_str());
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"FOLDER", "adapter_config.json and the tensors beside it", true},
    {"--model DIR", "the model that it was trained on", true},
    {"--output FILE", "a delta file (.safetensors)", true},
};

}  // namespace

constexpr Verb kImportVerb{
    "import", "an adapter of HF peft or AdapterHub as a delta",
    "Reads what `export` writes and the libraries themselves do. Whatever the\n"
    "folder says and is not done here, a tensor that is missing and one that\n"
    "has no place are errors.\n"
    "Example:\n"
    "  thinwire import my_adapter --model MODEL_DIR --output "
    "delta.safetensors",
    kOptions, &run};

}  // namespace thinwire
