#include "models/store_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kSpare = 256 << 20;  // bytes left for others
constexpr auto kUnused = std::chrono::hours(30 * 24);
// In memory a file nobody needs costs more.
constexpr auto kUnusedInMemory = std::chrono::hours(24);
// Times of files advance with the kernel's tick.
constexpr std::int64_t kTickNs = 50'000'000;

bool in_memory(const std::string& folder) {
  return folder.starts_with("/dev/shm/");
}

std::string default_folder() {
  const auto from = [](const char* name) -> std::string {
    const char* value = std::getenv(name);
    return value != nullptr && *value == '/' ? value : "";
  };
  if (const std::string cache = from("XDG_CACHE_HOME"); !cache.empty()) {
    return cache + "/thinwire";
  }
  const std::string home = from("HOME");
  return home.empty() ? "" : home + "/.cache/thinwire";
}

// Only this user's: what lies in it is trusted.
bool usable(const std::string& folder) {
  if (folder.empty()) return false;
  std::error_code error;
  for (const char* name : {"weights", "records", "models"}) {
    fs::create_directories(fs::path(folder) / name, error);
    if (error) return false;
  }
  struct stat info {};
  return ::stat(folder.c_str(), &info) == 0 && info.st_uid == ::geteuid() &&
         (info.st_mode & S_IWOTH) == 0 && ::access(folder.c_str(), W_OK) == 0;
}

std::int64_t room(const std::string& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) return 0;
  return static_cast<std::int64_t>(info.f_bavail) *
         static_cast<std::int64_t>(info.f_frsize);
}

std::int64_t nanoseconds(const struct timespec& t) {
  return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec;
}

std::string record_path(const std::string& folder, const Digest& key) {
  return folder + "/records/" + key.hex() + ".json";
}

std::string used_path(const std::string& prepared) {
  return prepared.substr(0, prepared.rfind('.')) + ".used";
}

// Prepared files, the longest unused first; what is mapped lives on.
void drop_unused(const std::string& folder, std::int64_t needed) {
  std::vector<std::pair<fs::file_time_type, std::string>> files;
  std::error_code ignored;
  for (const auto& entry :
       fs::directory_iterator(folder + "/weights", ignored)) {
    if (entry.path().extension() != ".weights") continue;
    const std::string path = entry.path().string();
    auto used = fs::last_write_time(used_path(path), ignored);
    if (ignored) used = fs::last_write_time(path, ignored);
    files.emplace_back(used, path);
  }
  std::ranges::sort(files);
  const auto now = fs::file_time_type::clock::now();
  const auto keep = in_memory(folder) ? kUnusedInMemory : kUnused;
  for (const auto& [used, path] : files) {
    const bool old = now - used > keep;
    const bool idle = now - used > std::chrono::hours(1);
    if (!old && !(idle && room(folder) < needed)) break;
    fs::remove(path, ignored);
    fs::remove(used_path(path), ignored);
  }
}

}  // namespace

std::vector<std::string> store_folders(const std::string& asked) {
  std::vector<std::string> folders;
  if (!asked.empty()) {
    if (!usable(asked)) {
      fail<UsageError>(
          "{}: cannot keep prepared weights here; it must be a folder that "
          "this user owns and others cannot write (set model.cache)",
          asked);
    }
    return {asked};
  }
  const std::string memory = "/dev/shm/thinwire-" + std::to_string(::geteuid());
  for (const std::string& folder : {default_folder(), memory}) {
    if (usable(folder)) folders.push_back(folder);
  }
  return folders;
}

std::string folder_with_room(const std::vector<std::string>& folders,
                             std::int64_t bytes) {
  for (const std::string& folder : folders) {
    sweep_store(folder);
    drop_unused(folder, bytes + kSpare);
    if (room(folder) >= bytes + kSpare) return folder;
  }
  return "";
}

FileState file_state(std::span<const std::string> files) {
  FileState state;
  Hasher hasher;
  for (const std::string& path : files) {
    struct stat info {};
    if (::stat(path.c_str(), &info) != 0) {
      fail<IoError>("{}: cannot stat: {}", path, std::strerror(errno));
    }
    const std::int64_t modified = nanoseconds(info.st_mtim);
    const std::int64_t changed = nanoseconds(info.st_ctim);
    hasher.number(static_cast<std::int64_t>(info.st_dev))
        .number(static_cast<std::int64_t>(info.st_ino))
        .number(static_cast<std::int64_t>(info.st_size))
        .number(modified)
        .number(changed);
    state.newest_ns = std::max({state.newest_ns, modified, changed});
  }
  state.key = hasher.digest();
  return state;
}

bool too_fresh(const FileState& state, std::int64_t now_ns) {
  return state.newest_ns + kTickNs > now_ns;
}

std::int64_t wall_clock_ns() {
  struct timespec now {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return nanoseconds(now);
}

std::optional<std::vector<Digest>> load_record(
    std::span<const std::string> folders, const Digest& key,
    const StorePlan& plan) {
  for (const std::string& folder : folders) {
    std::ifstream in(record_path(folder, key), std::ios::binary);
    if (!in) continue;
    const auto json = nlohmann::json::parse(in, nullptr, false);
    std::vector<Digest> digests;
    try {
      for (const StoreTensor& t : plan.tensors) {
        digests.push_back(Digest::from_hex(
            json.at("tensors").at(t.names.front()).get<std::string>()));
      }
      if (json.at("identity") == identity_of(plan, digests).hex()) {
        return digests;
      }
    } catch (const std::exception&) {
      // Damaged, or of another program version: it is found out anew.
    }
  }
  return std::nullopt;
}

void save_record(std::span<const std::string> folders, const Digest& key,
                 const StorePlan& plan, std::span<const Digest> digests) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::object();
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    tensors[plan.tensors[i].names.front()] = digests[i].hex();
  }
  const std::string text = nlohmann::ordered_json{
      {"identity", identity_of(plan, digests).hex()},
      {"tensors", tensors}}.dump();
  for (const std::string& folder : folders) {
    // By way of a name of its own: another process may write the same record.
    const std::string temporary = temporary_path(folder);
    std::error_code error;
    {
      std::ofstream out(temporary, std::ios::binary);
      out << text;
      if (!out.flush()) continue;
    }
    fs::rename(temporary, record_path(folder, key), error);
    if (!error) return;
    fs::remove(temporary, error);
  }
}

std::string prepared_path(const std::string& folder, const Digest& identity) {
  return folder + "/weights/" + identity.hex() + ".weights";
}

std::string temporary_path(const std::string& folder) {
  static std::atomic<int> count = 0;
  return fmt::format("{}/weights/{}-{}.tmp", folder, ::getpid(), count++);
}

void note_use(const std::string& prepared) {
  std::ofstream(used_path(prepared)) << "\n";
}

void sweep_store(const std::string& folder) {
  std::error_code ignored;
  const auto sweep = [&](const fs::path& path) {
    const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info {};
    if (!file || ::fstat(file.get(), &info) != 0) return;
    // Not locked yet, if it was made this minute.
    const bool fresh = wall_clock_ns() - nanoseconds(info.st_ctim) <
                       std::int64_t{60} * 1'000'000'000;
    if (fresh || ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) return;
    fs::remove_all(path, ignored);
  };
  for (const char* place : {"/weights", "/models"}) {
    for (const auto& entry : fs::directory_iterator(folder + place, ignored)) {
      if (entry.path().extension() == ".tmp") {
        sweep(entry.path());
      }
    }
  }
}

File lock_store(const std::string& folder, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  File file(
      ::open((folder + "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  while (file && ::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (Clock::now() > end) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return file;
}

}  // namespace thinwire
