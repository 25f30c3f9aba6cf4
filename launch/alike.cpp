#include "launch/alike.h"

#include <algorithm>
#include <span>
#include <vector>

namespace thinwire {

void fail_alike(Communicator& comm, const std::string& error, bool io) {
  const auto all = comm.all_gather_v(std::as_bytes(std::span(error)),
                                     {.tag = "whether all could"});
  const auto failed =
      std::ranges::find_if(all, [](const auto& text) { return !text.empty(); });
  if (failed == all.end()) return;
  if (!error.empty() && io) throw IoError(error);
  if (!error.empty()) throw UsageError(error);
  const std::string text(reinterpret_cast<const char*>(failed->data()),
                         failed->size());
  fail<FailedElsewhere>("rank {}: {}", failed - all.begin(), text);
}

}  // namespace thinwire
