// thinwire bench: figures of this machine, each beside a check of the answer.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <span>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "comm/threads.h"
#include "launch/bench/comm_bench.h"
#include "launch/bench/kernels_verb.h"
#include "launch/bench/parse.h"
#include "launch/bench/report.h"
#include "launch/bench/step_bench.h"
#include "launch/job.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

constexpr Algorithm kAlgorithms[] = {Algorithm::kDoubling,
                                     Algorithm::kHalvingDoubling,
                                     Algorithm::kRing, Algorithm::kTwoLevel};
constexpr Codec kCodecs[] = {Codec::kFp32, Codec::kBf16, Codec::kInt8};
constexpr int kMostThreads = 64;

struct Plan {
  CommBenchOptions options;
  double compute_seconds = 0;
  std::vector<std::string> backends;
  int thread_ranks = 2, thread_hosts = 1;
  std::string json_path;
};

std::vector<BenchPath> paths_of(const Arguments& arguments, bool mpi) {
  std::vector<BenchPath> paths;
  if (!arguments.has("paths")) {
    paths = {BenchPath::kCollective, BenchPath::kTrainer};
    if (mpi) paths.push_back(BenchPath::kMpi);
    return paths;
  }
  for (const std::string& word : split_list(arguments.get("paths"))) {
    const auto all = {BenchPath::kCollective, BenchPath::kTrainer,
                      BenchPath::kMpi};
    const auto found =
        std::ranges::find(all, word, [](BenchPath p) { return name_of(p); });
    if (found == all.end()) {
      fail<UsageError>(
          "--paths: '{}' is unknown; choose of: collective, trainer, mpi",
          word);
    }
    if (*found == BenchPath::kMpi && !mpi) {
      fail<UsageError>("--paths: 'mpi' needs mpirun");
    }
    paths.push_back(*found);
  }
  return paths;
}

std::vector<BenchCase> cases_of(const Arguments& arguments, bool mpi) {
  std::vector<Algorithm> algorithms(std::begin(kAlgorithms),
                                    std::end(kAlgorithms));
  if (arguments.has("algorithms")) {
    algorithms.clear();
    for (const std::string& word : split_list(arguments.get("algorithms"))) {
      algorithms.push_back(parse_algorithm(word));
      if (algorithms.back() == Algorithm::kMpi && !mpi) {
        fail<UsageError>("--algorithms: 'mpi' needs mpirun");
      }
    }
  }
  std::vector<Codec> codecs(std::begin(kCodecs), std::end(kCodecs));
  if (arguments.has("codecs")) {
    codecs.clear();
    for (const std::string& word : split_list(arguments.get("codecs"))) {
      codecs.push_back(parse_codec(word));
    }
  }
  std::vector<BenchCase> cases;
  for (const BenchPath path : paths_of(arguments, mpi)) {
    if (path == BenchPath::kMpi) {
      cases.push_back({path, Algorithm::kMpi, Codec::kFp32});
      continue;
    }
    for (const Algorithm algorithm : algorithms) {
      for (const Codec codec : codecs) {
        // The library sums fp32 and knows no codec.
        if (algorithm == Algorithm::kMpi && codec != Codec::kFp32) continue;
        cases.push_back({path, algorithm, codec});
      }
    }
  }
  return cases;
}

Plan plan_of(const Arguments& arguments) {
  const bool mpi = started_by_mpi();
  Plan plan;
  plan.options.cases = cases_of(arguments, mpi);
  plan.options.sizes = parse_sizes(arguments.get("sizes", "4-4M"));
  plan.options.seconds =
      parse_number("--seconds", arguments.get("seconds", "0.1"), 0);
  plan.options.rounds = static_cast<int>(
      parse_number("--rounds", arguments.get("rounds", "4"), 1));
  plan.compute_seconds =
      parse_number("--compute", arguments.get("compute", "0"), 0) / 1e3;
  plan.thread_ranks =
      static_cast<int>(parse_number("--ranks", arguments.get("ranks", "2"), 1));
  if (plan.thread_ranks > kMostThreads) {
    fail<UsageError>("--ranks must be in [1, {}], got {}", kMostThreads,
                     plan.thread_ranks);
  }
  plan.thread_hosts =
      static_cast<int>(parse_number("--hosts", arguments.get("hosts", "1"), 1));
  if (plan.thread_hosts > plan.thread_ranks) {
    fail<UsageError>("--hosts must be in [1, {}], got {}", plan.thread_ranks,
                     plan.thread_hosts);
  }
  plan.backends =
      split_list(arguments.get("backends", mpi ? "mpi" : "threads"));
  for (const std::string& backend : plan.backends) {
    if (backend == "threads" && mpi) {
      fail<UsageError>("--backends: 'threads' runs without mpirun");
    }
  }
  if (mpi && (arguments.has("ranks") || arguments.has("hosts"))) {
    fail<UsageError>("--ranks and --hosts are for threads; mpirun has -np");
  }
  plan.json_path = arguments.get("json");
  return plan;
}

CommBenchResult measure(Communicator& comm, const Plan& plan) {
  CommBenchResult result;
  result.backend = comm.backend();
  result.ranks = comm.size();
  CommBenchOptions options = plan.options;
  const bool timed = plan.compute_seconds > 0 || options.seconds > 0;
  if (comm.size() > 1 && timed) options.link = measure_link(comm);
  result.link = options.link;
  if (plan.compute_seconds > 0) {
    result.slowdown = bench_slowdown(comm, options, plan.compute_seconds);
  } else {
    result.rows = bench_comm(comm, options);
  }
  return result;
}

CommBenchResult measure_backend(const std::string& backend, const Plan& plan) {
  if (backend != "threads") return measure(*make_communicator(backend), plan);
  CommBenchResult result;
  std::vector<int> hosts;
  for (int r = 0; r < plan.thread_ranks; ++r) {
    hosts.push_back(r % plan.thread_hosts);
  }
  run_ranks(
      plan.thread_ranks,
      [&](Communicator& comm) {
        CommBenchResult mine = measure(comm, plan);
        if (comm.rank() == 0) result = std::move(mine);
      },
      hosts);
  return result;
}

constexpr const char* kOfComm[] = {"sizes", "algorithms", "codecs",
                                   "paths", "backends",   "ranks",
                                   "hosts", "seconds",    "compute"};
constexpr const char* kOfKernels[] = {"model", "mask",   "densities",
                                      "batch", "input",  "target",
                                      "dtype", "threads"};
constexpr const char* kOfStep[] = {"warmup", "steps"};

void refuse(const Arguments& arguments, std::span<const char* const> options,
            const std::string& what) {
  for (const char* option : options) {
    if (arguments.has(option)) {
      fail<UsageError>(
          "bench {}: --{} is not of it (see thinwire bench --help)", what,
          option);
    }
  }
}

void check_options(const Arguments& arguments, const std::string& what) {
  if (what != "comm" && what != "kernels" && what != "step") {
    fail<UsageError>(
        "bench: '{}' is unknown; choose one of: comm, kernels, step", what);
  }
  if (what != "comm") refuse(arguments, kOfComm, what);
  if (what != "kernels") refuse(arguments, kOfKernels, what);
  if (what != "step") refuse(arguments, kOfStep, what);
}

int run(const Arguments& arguments, Communicator& comm) {
  const std::string what = arguments.get("WHAT");
  check_options(arguments, what);
  if (what == "step") return run_bench_step(arguments, comm);
  if (what == "kernels") {
    if (comm.size() > 1) fail<UsageError>("bench kernels runs without mpirun");
    return run_bench_kernels(arguments);
  }
  const Plan plan = plan_of(arguments);
  at::set_num_threads(1);  // of the work that --compute does
  nlohmann::ordered_json json{{"machine", describe_machine()},
                              {"results", nlohmann::ordered_json::array()}};
  for (const std::string& backend : plan.backends) {
    const CommBenchResult result = measure_backend(backend, plan);
    if (comm.rank() != 0) continue;
    std::printf("%s%s", json["results"].empty() ? "" : "\n",
                format_result(result).c_str());
    json["results"].push_back(to_json(result));
  }
  if (comm.rank() == 0 && !plan.json_path.empty()) {
    std::ofstream file(plan.json_path);
    file << json.dump(1) << "\n";
    if (!file.flush()) fail<IoError>("{}: cannot be written", plan.json_path);
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"WHAT",
     "comm: the exchange between ranks; kernels: masked gradients; step: the "
     "steps of a run",
     true},
    {"CONFIG?", "step: the run, a YAML file"},
    {"overrides…", "step: key.path=value"},
    {"--sizes LIST", "payloads in bytes, as 4,1K,64K or 4-64M (default 4-4M)"},
    {"--algorithms LIST",
     "auto, doubling, halving_doubling, ring, two_level, mpi (default: all "
     "but auto and mpi)"},
    {"--codecs LIST", "fp32, bf16, int8 (default: all)"},
    {"--paths LIST",
     "collective: the communicator alone; trainer: what a training step runs "
     "(reducer, guard, accounting); mpi: MPI_Allreduce itself (default: all)"},
    {"--backends LIST", "mpi; without mpirun threads, self"},
    {"--ranks P", "of backend threads (default 2)"},
    {"--hosts H",
     "that those are to believe themselves on, in turn (default "
     "1)"},
    {"--seconds S", "of each case and size; 0 checks only (default 0.1)"},
    {"--rounds N",
     "in which cases take turns (default 4, there and back; kernels 5)"},
    {"--compute MS",
     "measure instead what an exchange in flight costs MS milliseconds of "
     "compute"},
    {"--model NAME",
     "kernels: t5-small, t5-base, bert-base, minilm, or a config.json (default "
     "t5-base)"},
    {"--mask FILE", "kernels: positions of a delta file (thinwire mask)"},
    {"--densities LIST",
     "kernels: uniform masks (default 0.0005,0.005,0.02,0.1,0.5; none with "
     "--mask)"},
    {"--batch N", "kernels: sequences (default 8)"},
    {"--input N", "kernels: tokens of an input (default 128)"},
    {"--target N", "kernels: tokens of a decoder's (default 32)"},
    {"--dtype TYPE", "kernels: of x and dy, fp32 or bf16 (default fp32)"},
    {"--threads N", "kernels: (default 1)"},
    {"--warmup N", "step: steps that are not timed (default 3)"},
    {"--steps N", "step: timed steps (default 20)"},
    {"--json FILE", "write every figure to a file"},
};

}  // namespace

constexpr Verb kBenchVerb{
    "bench", "measure the exchange, or masked gradients",
    "Each answer is checked: whole numbers exactly, rounded codecs to their\n"
    "own bound, and the same bits on every rank. Times are of one exchange on\n"
    "the slowest rank. Cases of one size take turns, so that they can be\n"
    "compared; figures of different runs hardly can. A figure of a machine\n"
    "that does something else at the time is worth nothing.\n"
    "  algbw  payload / p50\n"
    "  busbw  algbw * 2 (P - 1) / P: what a link must have carried\n"
    "  sent   bytes of the busiest rank, guard included (docs/exchange.md has\n"
    "         the formulas)\n"
    "  alpha, beta  of p50 = alpha + beta * bytes, by least squares\n"
    "`bench kernels` puts each masked gradient beside the dense product dy^T "
    "x\n"
    "that it spares, in turns and checked against it; uniform masks once per\n"
    "group of like tensors. An answer that is wrong: exit status 1.\n"
    "Examples:\n"
    "  thinwire bench comm --ranks 4 --sizes 1M --codecs fp32\n"
    "  mpirun -np 2 --bind-to core thinwire bench comm --json comm.json\n"
    "  mpirun -np 2 --bind-to core --mca btl tcp,self thinwire bench comm \\\n"
    "    --paths trainer,mpi --algorithms auto --codecs fp32 --sizes 4-64K\n"
    "  mpirun -np 2 --bind-to core thinwire bench comm --compute 300 \\\n"
    "    --sizes 16M --algorithms auto --codecs fp32\n"
    "  taskset -c 0 thinwire bench kernels --model t5-base --densities 0.005\n"
    "  thinwire bench kernels --model bert-base --mask mask.safetensors",
    kOptions, &run};

}  // namespace thinwire
