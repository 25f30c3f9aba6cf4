// thinwire predict: labels, values or text for every sample of a folder.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "comm/communicator.h"
#include "data/decode.h"
#include "launch/job.h"
#include "launch/saved_run.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

// A text that was written, not one of several answers.
bool is_written(const Prediction& p) {
  return p.tokens.has_value() && p.scores.empty();
}

// decoder: of texts.
Json line_of(const Prediction& p, const ShardIndex& index,
             const TextDecoder* decoder) {
  Json json = {{"id", p.sample}};
  if (is_written(p)) {
    json["text"] = decoder->text(*p.tokens);
    json["tokens"] = *p.tokens;
    json["score"] = p.value;
    return json;
  }
  if (p.scores.empty()) {
    json["value"] = p.value;
    return json;
  }
  const auto label = static_cast<std::size_t>(p.value);
  json["label"] = static_cast<std::int64_t>(label);
  if (label < index.label_names.size()) json["name"] = index.label_names[label];
  json["scores"] = p.scores;
  return json;
}

void write_lines(const std::string& path, const std::vector<Vote>& votes,
                 const SavedRun& saved, const ShardFolder& folder) {
  std::FILE* file = path.empty() ? stdout : std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    fail<IoError>("--output {}: cannot write: {}", path, std::strerror(errno));
  }
  std::optional<TextDecoder> decoder;
  if (std::ranges::any_of(
          votes, [](const Vote& vote) { return is_written(vote.answer); })) {
    decoder.emplace(
        (std::filesystem::path(folder.path()) / "vocab.json").string());
  }
  bool good = true;
  for (const Vote& vote : votes) {
    Json json =
        line_of(vote.answer, folder.index(), decoder ? &*decoder : nullptr);
    if (saved.deltas.size() > 1 &&
        saved.open.task->answer() != Answer::kValue) {
      json["votes"] = vote.votes;
    }
    const std::string line =
        json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    good =
        std::fwrite(line.data(), 1, line.size(), file) == line.size() && good;
  }
  good = std::fflush(file) == 0 && good;
  if (file != stdout) good = std::fclose(file) == 0 && good;
  if (!good) {
    fail<IoError>("--output {}: cannot write: {}", path, std::strerror(errno));
  }
}

const ShardFolder& folder_of(const OpenRun& open) {
  if (open.eval != nullptr) return *open.eval;
  if (open.task_evals.size() == 1) return *open.task_evals.front().folder;
  fail<UsageError>("{}: has several tasks; say --task NAME", open.config.path);
}

int run(const Arguments& arguments, Communicator& comm) {
  Progress progress;
  SavedRun saved = open_saved_run(arguments, comm, progress, "predict");
  const ShardFolder& folder = folder_of(saved.open);
  const auto votes =
      predict_ensemble(comm, *saved.open.backbone, *saved.open.task, folder,
                       saved.options, *saved.members);
  if (comm.rank() == 0) {
    write_lines(arguments.get("output"), votes, saved, folder);
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "the run, a YAML file", true},
    {"overrides…", "key.path=value, as train.eval_samples=10"},
    {"--delta PATH…",
     "a delta file, checkpoint or run folder (default: the best of output); "
     "several vote"},
    {"--task NAME", "of several tasks this one"},
    {"--data DIR", "shards to predict (default: data.eval)"},
    {"--output FILE", "JSON lines (default: stdout)"},
};

}  // namespace

constexpr Verb kPredictVerb{
    "predict", "labels, values or text as JSON lines",
    "One line per sample, in the order of the shards: id, label, name and\n"
    "scores; value; or text, tokens and score. A language model goes on from\n"
    "a sample's prompt; of text without one the value is the mean loss of a\n"
    "token. Text is made of the likeliest tokens, or as overrides say (names\n"
    "of HF's generate; docs/generation.md):\n"
    "  task.num_beams=4      beam search; length_penalty, early_stopping\n"
    "  task.do_sample=true   drawn; top_p, top_k, temperature, sample_seed\n"
    "  max_new_tokens, min_new_tokens, no_repeat_ngram_size with any of them\n"
    "Several deltas of one layout vote (docs/methods.md): `votes` is how many\n"
    "gave the answer.\n"
    "Example:\n"
    "  thinwire predict runs/quickstart/lora/config.yaml --output out.jsonl\n"
    "  thinwire predict runs/text/config.yaml task.num_beams=4\n"
    "  thinwire predict runs/p1/config.yaml --delta runs/p1 --delta runs/p2 "
    "\\\n"
    "    --delta runs/p3",
    kOptions, &run};

}  // namespace thinwire
