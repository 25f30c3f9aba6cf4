#include "launch/run_folder.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/log.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

bool holds_run(const fs::path& folder) {
  for (const char* name :
       {"config.yaml", "metrics.jsonl", "checkpoints", "summary.json"}) {
    if (fs::exists(folder / name)) return true;
  }
  return false;
}

void write_whole(const fs::path& path, const std::string& text) {
  const fs::path temporary = path.string() + ".tmp";
  errno = 0;
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    file.close();
    if (!file) {
      const int error = errno;
      std::error_code ignored;
      fs::remove(temporary, ignored);
      fail<IoError>("{}: cannot write: {}", path.string(),
                    error == 0 ? "unknown error" : std::strerror(error));
    }
  }
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) {
    fail<IoError>("{}: cannot rename into place: {}", path.string(),
                  error.message());
  }
}

void prepare(const fs::path& folder, bool resume) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    fail<IoError>("output {}: cannot make the run folder: {}", folder.string(),
                  error.message());
  }
  if (!resume && holds_run(folder)) {
    fail<UsageError>(
        "output {}: holds a run already; give --resume to go on with it, or "
        "another output",
        folder.string());
  }
  write_whole(folder / "writable", "");
  fs::remove(folder / "writable", error);
}

}  // namespace

void open_run_folder(Communicator& comm, const std::string& folder,
                     bool resume) {
  std::string error;
  try {
    if (comm.rank() == 0) prepare(folder, resume);
  } catch (const std::exception& e) {
    error = e.what();
  }
  agree_ok(comm, error);
  // The others need the folder only for their logs; it may be on another host.
  try {
    std::error_code ignored;
    fs::create_directories(folder, ignored);
    const std::string name =
        comm.rank() == 0 ? "log.txt" : fmt::format("log-{}.txt", comm.rank());
    init_log(comm.rank(), (fs::path(folder) / name).string());
  } catch (const IoError& e) {
    error = e.what();
  }
  agree_ok(comm, error);
}

void write_config(const std::string& folder, const std::string& config_text) {
  write_whole(fs::path(folder) / "config.yaml", config_text);
}

void write_summary(const std::string& folder,
                   const nlohmann::ordered_json& summary) {
  write_whole(fs::path(folder) / "summary.json", summary.dump(2) + "\n");
  // The same as the last line of a log that is there.
  const fs::path log = fs::path(folder) / "metrics.jsonl";
  if (fs::exists(log)) {
    std::ofstream(log, std::ios::binary | std::ios::app)
        << summary.dump() << "\n";
  }
}

}  // namespace thinwire
