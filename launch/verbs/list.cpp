// thinwire list: what there is to choose from.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/job.h"
#include "launch/method_matrix.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows method_rows() {
  Rows rows{{"method", "about"}};
  for (const MethodInfo& m : methods()) {
    rows.push_back({std::string(m.id), std::string(m.about)});
  }
  return rows;
}

Rows task_rows() {
  Rows rows{{"task", "about"}};
  for (const TaskInfo& t : tasks()) {
    rows.push_back({std::string(t.kind), std::string(t.about)});
  }
  return rows;
}

Rows model_rows() {
  Rows rows{{"model"}};
  for (const std::string& name : backbone_names()) rows.push_back({name});
  return rows;
}

Rows codec_rows() {
  return {{"codec", "about"},
          {"fp32", "4 bytes a number"},
          {"bf16", "2 bytes a number, rounded to nearest even"},
          {"int8", "1.016 bytes a number, blocks of 256 with one scale"}};
}

struct Listing {
  const char* name;
  Rows (*rows)();
};
constexpr Listing kListings[] = {{"methods", &method_rows},
                                 {"models", &model_rows},
                                 {"tasks", &task_rows},
                                 {"codecs", &codec_rows}};

int run(const Arguments& arguments, Communicator& comm) {
  const std::string what = arguments.get("WHAT");
  std::string text;
  for (const Listing& listing : kListings) {
    if (!what.empty() && what != listing.name) continue;
    text += (text.empty() ? "" : "\n") + format_table(listing.rows());
    if (what == "methods") {
      text += "\nbackbones they work on, by their defaults or with a field set:\n" +
              format_table(method_matrix());
    }
  }
  if (text.empty()) {
    fail<UsageError>(
        "list: '{}' is unknown; choose methods, models, tasks or codecs", what);
  }
  if (comm.rank() == 0) std::fputs(text.c_str(), stdout);
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"WHAT?", "methods, models, tasks or codecs (default: all)"},
};

}  // namespace

constexpr Verb kListVerb{"list", "methods, models, tasks and codecs",
                         "The keys of each are in `thinwire --help-config`.\n"
                         "Example:\n"
                         "  thinwire list methods",
                         kOptions, &run};

}  // namespace thinwire
