// thinwire data: check or describe a folder of shards.
#include <cstdio>

#include "base/error.h"
#include "comm/communicator.h"
#include "data/describe.h"
#include "launch/job.h"
#include "launch/open_run.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"

namespace thinwire {
namespace {

int run(const Arguments& arguments, Communicator& comm) {
  const std::string action = arguments.get("ACTION");
  if (action != "verify" && action != "describe") {
    fail<UsageError>("data: '{}' is unknown; choose verify or describe",
                     action);
  }
  const auto folder = open_shard_folder(arguments.get("DIR"));
  if (comm.rank() != 0) return kExitDone;
  if (action == "verify") {
    folder->verify();
    std::printf("%s: %s samples, every checksum agrees\n",
                folder->path().c_str(),
                with_commas(folder->index().samples).c_str());
  } else {
    std::fputs(describe(*folder).c_str(), stdout);
  }
  return kExitDone;
}

constexpr VerbOption kOptions[] = {
    {"ACTION", "verify (every checksum) or describe (counts, labels)", true},
    {"DIR", "a folder made by data/prepare.py", true},
};

}  // namespace

constexpr Verb kDataVerb{
    "data", "verify or describe a folder of shards",
    "Example:\n"
    "  thinwire data verify .cache/quickstart/shards/train",
    kOptions, &run};

}  // namespace thinwire
