// thinwire merge: a delta into its model, as an HF folder.
#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/adapted_model.h"
#include "launch/job.h"
#include "launch/verbs/verbs.h"
#include "models/atomic_file.h"
#include "models/export.h"
#include "models/mapping.h"
#include "models/new_folder.h"
#include "peft/method_tools.h"
#include "peft/narrow_model.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// What stands beside the weights of a model and stays true of the merged one.
constexpr const char* kCopied[] = {
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
};

void copy_beside(const std::string& from, const NewFolder& to) {
  for (const char* name : kCopied) {
    const fs::path path = fs::path(from) / name;
    if (!fs::is_regular_file(path)) continue;
    const Mapping bytes(path.string());
    AtomicFile file(to / name);
    file.write(bytes.data(), bytes.size());
    file.publish();
  }
}

MergedSlots merged(const AdaptedModel& model) {
  MergedSlots slots;
  for (const auto& method : model.methods) {
    // Before anything else, so that one that cannot says why.
    method->merge(*model.backbone, *model.delta, slots);
    if (method->mergeable()) continue;
    fail<UsageError>("{}: is no change of weights and cannot be merged",
                     method->id());
  }
  return slots;
}

int run(const Arguments& arguments, Communicator& comm) {
  require_one_rank("merge", comm);
  set_threads(0);
  const AdaptedModel model = open_delta(arguments, comm);
  model.delta->bind(model.backbone->parameters());
  const std::string output = arguments.get("output");
  NewFolder folder(output);
  const MergedSlots slots = merged(model);
  const NarrowModel narrow = narrow_model(*model.backbone, slots);
  if (narrow.backbone == nullptr) {
    save_hf_folder(*model.backbone, folder.path(), slots);
  } else {
    if (model.task != nullptr) {
      model.task->add_head(*narrow.backbone, *narrow.source);
    }
    save_hf_folder(*narrow.backbone, folder.path());
  }
  for (const std::string& line : narrow.said) {
    std::fprintf(stderr, "%s\n", line.c_str());
  }
  if (!model.folder.empty()) copy_beside(model.folder, folder);
  folder.publish();
  std::printf("%s\n", output.c_str());
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"DELTA", "a delta file, or a checkpoint or run folder", true},
    {"--model DIR", "the model it was trained on (default: the run's)"},
    {"--output DIR", "a new folder", true},
};

}  // namespace

constexpr Verb kMergeVerb{
    "merge", "a delta into its model: a folder that transformers loads",
    "Writes config.json and model.safetensors, fp32, and copies the "
    "tokenizer's\n"
    "files. For methods that change weights: LoRA, VeRA, (IA)^3, BitFit, "
    "masks,\n"
    "DSEE, full fine-tuning and heads; adapters, prompts and prefixes are\n"
    "refused. Feed-forward channels and T5's heads that nothing reads, since\n"
    "they were pruned, are left out: config.json has the smaller widths.\n"
    "Example:\n"
    "  thinwire merge runs/quickstart/lora --output merged_model",
    kOptions, &run};

}  // namespace thinwire
