#include "launch/send_model.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "launch/alike.h"
#include "launch/progress.h"
#include "models/atomic_file.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = 1 << 20;
// A piece over 1 Mbit/s takes 9 s.
constexpr double kPieceSeconds = 60;

// The folder in the making; removed unless it was published.
class Incoming {
 public:
  explicit Incoming(const std::string& to)
      : to_(to), temporary_(fmt::format("{}-{}.tmp", to, ::getpid())) {
    std::error_code error;
    fs::create_directories(temporary_, error);
    held_.reset(::open(temporary_.c_str(), O_RDONLY | O_CLOEXEC));
    // The lock tells a sweep that its maker lives.
    if (error || !held_ || ::flock(held_.get(), LOCK_SH) != 0) {
      fail<IoError>("{}: cannot create: {}", temporary_, std::strerror(errno));
    }
  }
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;
  ~Incoming() {
    std::error_code ignored;
    if (!published_) fs::remove_all(temporary_, ignored);
  }

  std::string path(const std::string& name) const {
    return temporary_ + "/" + name;
  }

  void publish() {
    std::error_code error;
    fs::rename(temporary_, to_, error);
    published_ = !error;
    if (error && !fs::exists(to_)) {  // another job was faster: as good
      fail<IoError>("{}: cannot rename: {}", temporary_, error.message());
    }
  }

 private:
  std::string to_, temporary_;
  File held_;
  bool published_ = false;
};

// One file from rank 0. error: of this rank; it goes on taking part.
void send_file(Communicator& group, const std::string& path, std::int64_t bytes,
               const std::optional<Incoming>& incoming, std::string& error,
               const std::function<void(std::int64_t)>& moved) {
  const std::string name = fs::path(path).filename().string();
  std::ifstream in;
  std::optional<AtomicFile> out;
  if (group.rank() == 0) in.open(path, std::ios::binary);
  if (incoming && error.empty()) {
    try {
      out.emplace(incoming->path(name));
    } catch (const IoError& e) {
      error = e.what();
    }
  }
  std::vector<char> piece(kPiece);
  for (std::int64_t at = 0; at < bytes;) {
    const std::size_t n =
        static_cast<std::size_t>(std::min<std::int64_t>(kPiece, bytes - at));
    if (group.rank() == 0 &&
        !in.read(piece.data(), static_cast<std::streamsize>(n)) &&
        error.empty()) {
      error = fmt::format("{}: cannot read {} bytes at {}", path, n, at);
    }
    const std::span<const char> mine(piece.data(), group.rank() == 0 ? n : 0);
    const auto got =
        group.broadcast_bytes(std::as_bytes(mine), 0,
                              {.tag = name, .timeout_seconds = kPieceSeconds});
    if (out && error.empty()) {
      try {
        out->write(got.data(), got.size());
      } catch (const IoError& e) {
        error = e.what();
      }
    }
    at += static_cast<std::int64_t>(n);
    moved(static_cast<std::int64_t>(n));
  }
  if (out && error.empty()) {
    try {
      out->publish();
    } catch (const IoError& e) {
      error = e.what();
    }
  }
}

}  // namespace

void send_model(Communicator& group, std::span<const std::string> files,
                const std::string& to) {
  const bool sends = group.rank() == 0;
  nlohmann::json list = nlohmann::json::array();
  std::string error;
  if (sends) {
    try {
      for (const std::string& path : files) {
        list.push_back({fs::path(path).filename().string(),
                        static_cast<std::int64_t>(fs::file_size(path))});
      }
    } catch (const fs::filesystem_error& e) {
      error = e.what();
    }
  }
  fail_alike(group, error, true);
  const std::string text = list.dump();
  const auto manifest = group.broadcast_bytes(std::as_bytes(std::span(text)), 0,
                                              {.tag = "the model's files"});
  list = nlohmann::json::parse(std::string_view(
      reinterpret_cast<const char*>(manifest.data()), manifest.size()));

  std::optional<Incoming> incoming;
  alike(group, [&] {
    if (!sends) incoming.emplace(to);
    return true;
  });
  std::int64_t all = 0, done = 0;
  for (const auto& file : list) all += file[1].get<std::int64_t>();
  spdlog::info("model: {} {} ({} files)",
               sends ? "sent to hosts that lack it:" : "received into " + to,
               human_bytes(static_cast<double>(all)), list.size());
  Progress progress;
  for (std::size_t i = 0; i < list.size(); ++i) {
    send_file(group, sends ? files[i] : list[i][0].get<std::string>(),
              list[i][1].get<std::int64_t>(), incoming, error,
              [&](std::int64_t bytes) {
                done += bytes;
                if (sends) {
                  progress.work("send model, MB", done >> 20, all >> 20);
                }
              });
  }
  fail_alike(group, error, true);
  alike(group, [&] {
    if (incoming) incoming->publish();
    return true;
  });
}

}  // namespace thinwire
