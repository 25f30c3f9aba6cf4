#include "launch/bench/kernels_verb.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "base/error.h"
#include "base/isa.h"
#include "launch/bench/kernels_report.h"
#include "launch/bench/parse.h"
#include "launch/bench/report.h"
#include "launch/job.h"
#include "peft/delta_file.h"

namespace thinwire {
namespace {

std::int64_t count_of(const Arguments& arguments, const std::string& name,
                      const std::string& otherwise, double least) {
  return static_cast<std::int64_t>(
      parse_number("--" + name, arguments.get(name, otherwise), least));
}

// The positions of a delta file's masked entries, by what they replace.
std::map<std::string, at::Tensor> masks_of(
    const std::string& path, const std::vector<KernelTensor>& tensors) {
  std::map<std::string, at::Tensor> masks;
  const DeltaFile file = load_delta(path);
  for (const KernelTensor& t : tensors) {
    for (const DeltaEntry& entry : file.delta.entries()) {
      if (entry.kind != EntryKind::kMasked || entry.target != t.name) continue;
      std::int64_t n = 1;
      for (const std::int64_t d : entry.shape) n *= d;
      if (n != t.out * t.in) {
        fail<UsageError>("{}: '{}' has {} numbers, --model's {}", path, t.name,
                         n, t.out * t.in);
      }
      masks.emplace(t.name, entry.index);
    }
  }
  if (masks.empty()) {
    fail<UsageError>("{}: no mask over a tensor of --model", path);
  }
  return masks;
}

at::ScalarType dtype_of(const Arguments& arguments) {
  const std::string word = arguments.get("dtype", "fp32");
  if (word == "fp32") return at::kFloat;
  if (word == "bf16") return at::kBFloat16;
  fail<UsageError>("--dtype: '{}' is unknown; choose one of: fp32, bf16", word);
}

std::vector<double> densities_of(const Arguments& arguments) {
  std::vector<double> out;
  if (arguments.has("mask") && !arguments.has("densities")) return out;
  for (const std::string& word :
       split_list(arguments.get("densities", "0.0005,0.005,0.02,0.1,0.5"))) {
    out.push_back(parse_number("--densities", word, 0));
    if (out.back() > 1) {
      fail<UsageError>("--densities must lie in [0, 1], got {}", word);
    }
  }
  return out;
}

void write_json(const std::string& path, const nlohmann::ordered_json& json) {
  std::ofstream file(path);
  file << json.dump(1) << "\n";
  if (!file.flush()) fail<IoError>("{}: cannot be written", path);
}

}  // namespace

int run_bench_kernels(const Arguments& arguments) {
  at::set_num_threads(static_cast<int>(count_of(arguments, "threads", "1", 1)));
  const std::string model = arguments.get("model", "t5-base");
  KernelsBenchOptions options;
  options.tensors =
      kernel_tensors(model, {.batch = count_of(arguments, "batch", "8", 1),
                             .input = count_of(arguments, "input", "128", 1),
                             .target = count_of(arguments, "target", "32", 1)});
  options.dtype = dtype_of(arguments);
  options.rounds = static_cast<int>(count_of(arguments, "rounds", "5", 1));
  nlohmann::ordered_json json{{"machine", describe_machine()},
                              {"isa", name_of(isa())},
                              {"threads", at::get_num_threads()},
                              {"model", model},
                              {"results", nlohmann::ordered_json::array()}};
  std::vector<KernelRow> all;
  const auto measure = [&](const std::string& name) {
    const KernelsResult result{name, bench_kernels(options)};
    all.insert(all.end(), result.rows.begin(), result.rows.end());
    std::printf("%s\n", format_kernels(result).c_str());
    std::fflush(stdout);
    json["results"].push_back(to_json(result));
  };
  for (const std::string& path : arguments.all("mask")) {
    options.masks = masks_of(path, options.tensors);
    measure(path);
  }
  options.masks.clear();
  for (const double density : densities_of(arguments)) {
    options.density = density;
    measure(fmt::format("uniform {}", density));
  }
  const Roofline roofline = measure_roofline(all);
  std::printf("%s", format_roofline(roofline).c_str());
  json["roofline"] = to_json(roofline);
  if (arguments.has("json")) write_json(arguments.get("json"), json);
  return kExitDone;
}

}  // namespace thinwire
