#include "dist/resume.h"

#include <filesystem>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/temp_folder.h"
#include "comm/communicator.h"
#include "dist/durable.h"
#include "dist/options.h"
#include "dist/together.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

std::string broadcast_text(Communicator& comm, const std::string& text) {
  const auto bytes = comm.broadcast_bytes(
      std::as_bytes(std::span(text.data(), comm.rank() == 0 ? text.size() : 0)),
      0, {.tag = "resume"});
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string file_names(const std::string& folder) {
  std::string names;
  for (const auto& item : fs::directory_iterator(folder)) {
    names += item.path().filename().string() + "\n";
  }
  return names;
}

}  // namespace

std::optional<Resumed> load_newest(Communicator& comm,
                                   const std::string& checkpoints,
                                   TrainObserver* observer) {
  const bool root = comm.rank() == 0;
  const std::string folder = broadcast_text(
      comm, together(comm, [&]() -> std::string {
        if (!root) return "";
        std::vector<std::string> skipped;
        const auto newest = newest_checkpoint(checkpoints, &skipped);
        for (const std::string& reason : skipped) {
          if (observer != nullptr) {
            observer->warn("checkpoint passed over: " + reason);
          }
        }
        return newest.value_or("");
      }));
  if (folder.empty()) return std::nullopt;

  // The others read copies, which load_checkpoint() verifies again.
  std::optional<TempFolder> scratch;
  if (comm.size() > 1) {
    const std::string names =
        broadcast_text(comm, together(comm, [&] {
                         if (!root) scratch.emplace();
                         return root ? file_names(folder) : std::string();
                       }));
    for (std::size_t at = 0; at < names.size();) {
      const std::size_t end = names.find('\n', at);
      const std::string name = names.substr(at, end - at);
      at = end + 1;
      const std::string bytes = broadcast_text(
          comm, together(comm, [&] {
            return root ? read_file((fs::path(folder) / name).string())
                        : std::string();
          }));
      together(comm, [&] {
        if (!root) write_file(scratch->path() + "/" + name, bytes);
        return true;
      });
    }
  }
  return together(comm, [&] {
    return std::optional<Resumed>(
        Resumed{folder, load_checkpoint(root ? folder : scratch->path())});
  });
}

std::uint64_t batches_before(const RunState& state, const TrainRun& run,
                             const std::string& where) {
  const TrainOptions& o = run.options;
  const int ranks = run.comm->size();
  const std::int64_t batch = loader_batch(o) * ranks;
  if (state.samples % batch != 0) {
    fail<UsageError>(
        "{}: {} samples were consumed, which is no multiple of {} ranks x "
        "batch {}; resume with a batch that divides it",
        where, state.samples, ranks, o.batch_size);
  }
  const std::int64_t step = o.batch_size * o.accumulation * ranks;
  const bool steps_count = o.mixing.one_task && !run.train->parts().empty();
  if (steps_count && state.samples != state.step * step) {
    fail<UsageError>(
        "{}: {} steps had {} samples, steps of this run have {}; with "
        "mixing.one_task a step draws its task, so resume with as many",
        where, state.step, state.samples, step);
  }
  return static_cast<std::uint64_t>(state.samples / batch);
}

}  // namespace thinwire
