// thinwire search: which modules of a structure are worth a budget of numbers.
//
// A verb and no phase of `train`: the search optimises gates and modules on two
// sets of data, by several passes a step, none of which a training step has;
// and what it finds is a config that trains anew, from zero, as often as wanted
// and on other tasks. A search that is killed starts again.
#include "dist/search.h"

#include <cstdio>
#include <string>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/device.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"
#include "models/atomic_file.h"

namespace thinwire {
namespace {

const StructureMethod& the_structure(const OpenRun& open) {
  const auto* structure =
      open.methods.size() == 1
          ? dynamic_cast<const StructureMethod*>(open.methods[0].get())
          : nullptr;
  if (structure == nullptr) {
    fail<UsageError>(
        "{}: search chooses among the modules of `peft: [{{method: "
        "sparse_structure}}]`, and of no other method; leave that one alone "
        "there",
        open.config.path);
  }
  return *structure;
}

std::shared_ptr<const ShardFolder> open_gates_data(const OpenRun& open) {
  const RunConfig& config = open.config;
  const bool own = !config.search_data.empty();
  const std::string& path = own ? config.search_data : config.eval_data;
  if (path.empty()) {
    fail<UsageError>(
        "{}: search.data is missing: a folder of examples that the modules do "
        "not see, made by data/prepare.py",
        config.path);
  }
  return open_data(path, own ? "search.data" : "data.eval", config,
                   *open.backbone);
}

// The config with what was found in place of what was searched.
std::string found_config(const RunConfig& config, const Config& structure) {
  nlohmann::ordered_json all = config.all;
  all.erase("search");
  nlohmann::ordered_json method = {{"method", config.peft[0].id}};
  method.update(structure);
  all["peft"] = nlohmann::ordered_json::array({method});
  return to_yaml(all);
}

void write_found(const std::string& path, const std::string& text) {
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.publish();
}

std::string table(const GatedModules& modules, const SearchResult& result) {
  std::vector<std::vector<std::string>> rows{
      {"kind", "found", "of", "numbers"}};
  for (const ModuleKind kind : kModuleKinds) {
    std::int64_t found = 0, of = 0, numbers = 0;
    for (const DeltaModule& m : modules.modules()) of += m.kind == kind;
    for (const int i : result.kept) {
      const auto at = static_cast<std::size_t>(i);
      if (modules.modules()[at].kind != kind) continue;
      ++found;
      numbers += modules.counts()[at];
    }
    rows.push_back({std::string(name_of(kind)), with_commas(found),
                    with_commas(of), with_commas(numbers)});
  }
  return format_table(rows);
}

int run(const Arguments& arguments, Communicator& comm) {
  RunConfig config =
      load_run_config(arguments.get("CONFIG"), arguments.all("overrides"));
  comm.set_default_timeout_seconds(config.timeout_seconds);
  agree_config(comm, config);
  if (!config.search) {
    fail<UsageError>(
        "{}: has no section search; give it one, as in `search: {{budget: "
        "0.0001}}`",
        config.path);
  }
  const at::Device device = open_device(config.device, comm);
  OpenRun open = open_run(config, Need::kRequired, Need::kNothing, comm);
  open.backbone->parameters().move_to(device);
  GatedModules modules(*open.backbone, the_structure(open), config.train.seed);
  Progress progress;
  SearchRun search{.comm = &comm,
                   .backbone = open.backbone.get(),
                   .identity = open.identity,
                   .task = open.task.get(),
                   .modules = &modules,
                   .train = open.train,
                   .valid = open_gates_data(open),
                   .options = config.train,
                   .search = *config.search};
  if (comm.rank() == 0) {
    search.on_step = [&](const SearchRecord& r) {
      progress.work("search", r.step, r.steps);
      if (r.step % config.train.log_every != 0 && r.step != r.steps) return;
      progress.say(
          fmt::format("step {}  loss {:.4f}  of the gates' data {:.4f}", r.step,
                      r.train_loss, r.valid_loss));
    };
  }
  const SearchResult result = run_search(search);
  const std::string path = arguments.get("output");
  std::string error;
  if (comm.rank() == 0) {
    try {
      write_found(path, found_config(config, modules.chosen(result.kept)));
      std::printf("%s%s of %s modules, %s of %s numbers  ->  %s\n",
                  table(modules, result).c_str(),
                  with_commas(std::ssize(result.kept)).c_str(),
                  with_commas(std::ssize(modules.modules())).c_str(),
                  with_commas(result.numbers).c_str(),
                  with_commas(result.budget).c_str(), path.c_str());
    } catch (const IoError& e) {
      error = e.what();
    }
  }
  agree_ok(comm, error);
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"CONFIG", "a run with a section search, a YAML file", true},
    {"overrides…", "key.path=value, as search.budget=20000"},
    {"--output FILE", "the config found, a YAML file", true},
};

}  // namespace

constexpr Verb kSearchVerb{
    "search", "find which modules are worth a budget",
    "Chooses among the modules that `peft: [{method: sparse_structure}]`\n"
    "names: trains all of them on data.train behind gates that learn on\n"
    "search.data, over all ranks, and writes the config with those that fit\n"
    "search.budget.\n"
    "Example:\n"
    "  thinwire search configs/s3pet_2022_search.yaml --output found.yaml\n"
    "  thinwire train found.yaml",
    kOptions, &run};

}  // namespace thinwire
