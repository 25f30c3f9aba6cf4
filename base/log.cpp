#include "base/log.h"

#include <fmt/format.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

std::mutex file_mutex;
std::shared_ptr<spdlog::sinks::sink> file_sink;  // null: no file

}  // namespace

void init_log(int rank, const std::string& file) {
  auto console = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  console->set_level(rank == 0 ? spdlog::level::info : spdlog::level::warn);
  std::vector<spdlog::sink_ptr> sinks{std::move(console)};
  if (!file.empty()) {
    try {
      sinks.push_back(
          std::make_shared<spdlog::sinks::basic_file_sink_mt>(file));
    } catch (const spdlog::spdlog_ex& error) {
      fail<IoError>("{}: cannot open the log: {}", file, error.what());
    }
  }
  auto logger =
      std::make_shared<spdlog::logger>("thinwire", sinks.begin(), sinks.end());
  logger->set_level(spdlog::level::info);
  logger->set_pattern(fmt::format("%H:%M:%S.%e %^%L%$ [rank {}] %v", rank));
  logger->flush_on(spdlog::level::warn);
  {
    const std::lock_guard lock(file_mutex);
    file_sink = sinks.size() > 1 ? sinks.back() : nullptr;
  }
  spdlog::set_default_logger(std::move(logger));
}

void log_to_file(const std::string& line) {
  const std::lock_guard lock(file_mutex);
  if (file_sink == nullptr) return;
  file_sink->log(
      spdlog::details::log_msg("thinwire", spdlog::level::err, line));
  file_sink->flush();
}

}  // namespace thinwire
