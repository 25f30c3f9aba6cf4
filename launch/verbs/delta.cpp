// thinwire delta: arithmetic on saved deltas.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "base/nearest.h"
#include "comm/communicator.h"
#include "launch/adapted_model.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"
#include "peft/delta_arithmetic.h"

namespace thinwire {
namespace {

double number_of(const std::string& text, std::string_view option) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) {
    fail<UsageError>("delta: --{} has '{}', must be a number", option, text);
  }
  return value;
}

std::vector<double> weights_of(const Arguments& arguments, std::size_t files) {
  std::vector<double> out;
  std::string text = arguments.get("weights");
  if (text.empty()) return std::vector<double>(files, 1.0);
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    out.push_back(number_of(text.substr(at, comma - at), "weights"));
    at = comma + 1;
  }
  if (out.size() != files) {
    fail<UsageError>("delta: {} --weights for {} files", out.size(), files);
  }
  return out;
}

// Where the numbers of the first delta began, on --model.
at::Tensor origin(const Arguments& arguments, const NamedDelta& first,
                  Communicator& comm) {
  if (!arguments.has("model")) {
    fail<UsageError>(
        "delta: {} sums differences from where training began; give --model, "
        "the folder of the model",
        arguments.get("OPERATION"));
  }
  AdaptedModel model = open_delta({.path = arguments.get("model")},
                                  load_delta(first.path), first.path, comm);
  const double seed = number_of(arguments.get("seed", "1"), "seed");
  return origin_of(*model.delta, *model.backbone, model.methods,
                   static_cast<std::uint64_t>(seed));
}

std::string magnitude(const at::Tensor& numbers) {
  if (numbers.numel() == 0) return "0";
  return fmt::format(
      "{:.4g}", numbers.norm().item<double>() / std::sqrt(numbers.numel()));
}

std::string describe(const NamedDelta& d, const at::Tensor& began) {
  const Delta& delta = d.file.delta;
  std::vector<std::vector<std::string>> rows{
      {"entry", "shape", "numbers", "of each", "rms", "rms moved"}};
  for (const DeltaEntry& e : delta.entries()) {
    const at::Tensor numbers =
        delta.values().narrow(0, e.offset, e.count).to(at::kDouble);
    std::int64_t all = 1;
    for (const std::int64_t n : e.shape) all *= n;
    rows.push_back(
        {e.name, fmt::format("{}", fmt::join(e.shape, "x")),
         with_commas(e.count),
         fmt::format("{:.3g}",
                     static_cast<double>(e.count) /
                         static_cast<double>(std::max<std::int64_t>(all, 1))),
         magnitude(numbers),
         began.defined()
             ? magnitude(numbers.sub(began.narrow(0, e.offset, e.count)))
             : "-"});
  }
  std::string out = fmt::format("delta: {}\nlayout: {}\nbackbone: {}\n", d.path,
                                delta.hash().hex(), d.file.backbone.hex());
  for (const std::string& config : delta.method_configs()) {
    out += fmt::format("method: {}\n", config);
  }
  return out + format_table(rows);
}

struct Operation {
  const char* name;
  std::size_t least, most;  // files
};
constexpr Operation kOperations[] = {
    {"average", 1, SIZE_MAX}, {"add", 2, SIZE_MAX},       {"subtract", 2, 2},
    {"scale", 1, 1},          {"intersect", 2, SIZE_MAX}, {"describe", 1, 1},
};

const Operation& find_operation(const std::string& name, std::size_t files) {
  std::vector<std::string> names;
  for (const Operation& o : kOperations) {
    names.emplace_back(o.name);
    if (o.name != name) continue;
    if (files >= o.least && files <= o.most) return o;
    fail<UsageError>("delta: {} takes {} {}, got {}", name,
                     o.most == o.least ? "exactly" : "at least", o.least,
                     files);
  }
  fail<UsageError>("delta: '{}' is no operation; choose one of: {}", name,
                   list_nearest_first(name, names));
}

// The result takes the first delta's place.
void compute(const Arguments& arguments, const std::string& operation,
             std::vector<NamedDelta>& deltas, Communicator& comm) {
  if (operation == "intersect") {
    deltas[0].file.delta = intersect(deltas);
    return;
  }
  require_alike(deltas);
  std::vector<double> weights = weights_of(arguments, deltas.size());
  if (operation == "average") {
    double sum = 0;
    for (const double w : weights) sum += w;
    if (!(sum > 0)) {
      fail<UsageError>("delta: the weights sum to {}, must be above 0", sum);
    }
    for (double& w : weights) w /= sum;
    combine(deltas, weights, {});
    return;
  }
  if (operation == "subtract") weights[1] = -weights[1];
  if (operation == "scale") {
    weights = {number_of(arguments.get("factor"), "factor")};
  }
  const at::Tensor began = origin(arguments, deltas[0], comm);
  combine(deltas, weights, began);
}

int run(const Arguments& arguments, Communicator& comm) {
  require_one_rank("delta", comm);
  set_threads(0);
  const std::string operation = arguments.get("OPERATION");
  const std::vector<std::string> paths = arguments.all("FILES");
  find_operation(operation, paths.size());
  std::vector<NamedDelta> deltas;
  for (const std::string& path : paths) {
    const std::string file = find_delta(path);
    deltas.push_back({file, load_delta(file)});
  }
  if (operation == "describe") {
    const at::Tensor began = arguments.has("model")
                                 ? origin(arguments, deltas[0], comm)
                                 : at::Tensor();
    std::fputs(describe(deltas[0], began).c_str(), stdout);
    return kExitDone;
  }
  const std::string output = arguments.get("output");
  if (output.empty()) {
    fail<UsageError>("delta: give --output, the file of the result");
  }
  compute(arguments, operation, deltas, comm);
  save_delta(output, deltas[0].file.delta, deltas[0].file.backbone);
  std::printf("%s\n", output.c_str());
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"OPERATION", "average, add, subtract, scale, intersect or describe", true},
    {"FILES…", "delta files, or checkpoint or run folders"},
    {"--output FILE", "the result, a delta file (.safetensors)"},
    {"--model DIR", "the model: of add, subtract and scale, else optional"},
    {"--weights LIST", "of average and add, one per file: 0.3,0.7"},
    {"--factor X", "of scale"},
    {"--seed N", "of the initial values of what methods add (default: 1)"},
};

}  // namespace

constexpr Verb kDeltaVerb{
    "delta", "average, add, subtract, scale, intersect or describe deltas",
    "All but intersect and describe need deltas of one backbone and layout, "
    "and\n"
    "work on differences: what a number is less what it was when training "
    "began.\n"
    "intersect keeps, of the first, the positions that all mask.\n"
    "Example:\n"
    "  thinwire delta average runs/a runs/b --weights 1,3 --output mean."
    "safetensors\n"
    "  thinwire delta scale runs/a --factor -1 --model MODEL_DIR \\\n"
    "    --output forget.safetensors\n"
    "  thinwire delta describe runs/a",
    kOptions, &run};

}  // namespace thinwire
