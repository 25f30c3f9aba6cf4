#include "launch/cli.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/isa.h"
#include "base/log.h"
#include "base/nearest.h"
#include "comm/communicator.h"
#include "launch/config_fields.h"
#include "launch/job.h"
#include "launch/verb.h"
#include "launch/version.h"

namespace thinwire {
namespace {

constexpr const char* kAbout =
    "Thinwire trains small deltas of large frozen models, on one machine or "
    "under mpirun.";
constexpr const char* kFooter =
    "\nA first run on two ranks:\n"
    "  mpirun -np 2 thinwire train configs/quickstart_lora.yaml\n"
    "`thinwire VERB --help` says more on each; `thinwire --help-config` lists\n"
    "every key of a config.\n"
    "Exit status: 0 done, 1 a run failed, 2 bad usage, config or input, 75\n"
    "checkpointed on a signal (start again with --resume).";

// What the options of one verb were given, by name without dashes.
struct Given {
  std::deque<std::pair<std::string, std::string>> values;
  std::deque<std::pair<std::string, std::vector<std::string>>> lists;
  std::deque<std::pair<std::string, bool>> flags;

  Arguments arguments() const {
    Arguments out;
    for (const auto& [name, value] : values) {
      if (!value.empty()) out.set(name, {value});
    }
    for (const auto& [name, list] : lists) {
      if (!list.empty()) out.set(name, list);
    }
    for (const auto& [name, on] : flags) {
      if (on) out.set(name, {""});
    }
    return out;
  }
};

// Takes the mark of many off a spec.
bool take_many(std::string& spec) {
  static constexpr std::string_view kMany = "…";
  if (!spec.ends_with(kMany)) return false;
  spec.resize(spec.size() - kMany.size());
  return true;
}

void add_positional(CLI::App& app, const VerbOption& option, Given& given) {
  std::string name(option.spec);
  const std::string help(option.help);
  if (take_many(name)) {
    auto& slot = given.lists.emplace_back(name, std::vector<std::string>{});
    app.add_option(name, slot.second, help)->type_name("");
    return;
  }
  const bool optional = name.ends_with("?");
  if (optional) name.pop_back();
  auto& slot = given.values.emplace_back(name, "");
  auto* added = app.add_option(name, slot.second, help)->type_name("");
  if (!optional) added->required();
}

void add_option(CLI::App& app, const VerbOption& option, Given& given) {
  if (!option.spec.starts_with("--")) return add_positional(app, option, given);
  const std::size_t space = option.spec.find(' ');
  const std::string flag(option.spec.substr(0, space));
  const std::string name = flag.substr(2);
  if (space == std::string_view::npos) {
    auto& slot = given.flags.emplace_back(name, false);
    app.add_flag(flag, slot.second, std::string(option.help));
    return;
  }
  const std::string help(option.help);
  std::string value(option.spec.substr(space + 1));
  CLI::Option* added = nullptr;
  if (take_many(value)) {
    auto& slot = given.lists.emplace_back(name, std::vector<std::string>{});
    added = app.add_option(flag, slot.second, help);
    added->allow_extra_args(false);  // one each time it is given
  } else {
    added =
        app.add_option(flag, given.values.emplace_back(name, "").second, help);
  }
  added->type_name(value);
  if (option.required) added->required();
}

// Before MPI is up every rank meets the same command line: one is enough.
bool first_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* rank = std::getenv(name)) return std::atoi(rank) == 0;
  }
  return true;
}

int complain(const std::string& text) {
  if (first_rank()) std::fprintf(stderr, "error: %s\n", text.c_str());
  return kExitUsage;
}

std::vector<std::string> verb_names() {
  std::vector<std::string> names;
  for (const Verb* verb : verbs()) names.emplace_back(verb->name);
  return names;
}

int run_verb(const Verb& verb, const Arguments& arguments) {
  return run_job([&](Communicator& comm) {
    init_log(comm.rank(), "");
    isa();  // a THINWIRE_ISA that cannot be is said before anything starts
    return verb.run(arguments, comm);
  });
}

}  // namespace

int run_command_line(int argc, char** argv) {
  CLI::App app(kAbout, "thinwire");
  app.footer(kFooter);
  app.set_version_flag("--version", version_text());
  app.require_subcommand(0, 1);
  bool help_config = false;
  app.add_flag("--help-config", help_config, "every key of a config");
  std::map<const CLI::App*, std::pair<const Verb*, Given>> by_app;
  for (const Verb* verb : verbs()) {
    CLI::App* sub =
        app.add_subcommand(std::string(verb->name), std::string(verb->about));
    sub->footer("\n" + std::string(verb->details));
    auto& entry = by_app[sub];
    entry.first = verb;
    for (const VerbOption& option : verb->options) {
      add_option(*sub, option, entry.second);
    }
    sub->add_flag("--help-config", help_config, "every key of a config");
  }
  if (argc > 1 && argv[1][0] != '-') {
    const auto names = verb_names();
    if (std::ranges::find(names, argv[1]) == names.end()) {
      return complain(fmt::format("'{}' is no verb; choose one of: {}", argv[1],
                                  list_nearest_first(argv[1], names)));
    }
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return first_rank() ? app.exit(success) : kExitDone;
  } catch (const CLI::ParseError& error) {
    // A verb that is asked for its config keys needs no config.
    if (!help_config) {
      return complain(
          fmt::format("{} (see thinwire{}{} --help)", error.what(),
                      argc > 1 && argv[1][0] != '-' ? " " : "",
                      argc > 1 && argv[1][0] != '-' ? argv[1] : ""));
    }
  }
  if (help_config) {
    if (first_rank()) std::fputs(config_help().c_str(), stdout);
    return kExitDone;
  }
  if (app.get_subcommands().empty()) {
    if (first_rank()) std::fputs(app.help().c_str(), stdout);
    return kExitUsage;
  }
  const auto& [verb, given] = by_app.at(app.get_subcommands().front());
  return run_verb(*verb, given.arguments());
}

}  // namespace thinwire
