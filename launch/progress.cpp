#include "launch/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace thinwire {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kLine = std::chrono::seconds(5);

std::string bar(double share) {
  constexpr int kWidth = 20;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kWidth);
  return std::string(static_cast<std::size_t>(full), '#') +
         std::string(static_cast<std::size_t>(kWidth - full), '.');
}

}  // namespace

std::string human_bytes(double bytes) {
  static constexpr std::array<const char*, 5> kUnits{"B", "kB", "MB", "GB",
                                                     "TB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{:.0f} B", bytes)
                   : fmt::format("{:.3g} {}", bytes, kUnits[unit]);
}

std::string human_seconds(double seconds) {
  const auto s = static_cast<std::int64_t>(std::max(0.0, seconds) + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

Progress::Progress() : terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { clear(); }

void Progress::begin(std::int64_t first_step, std::int64_t steps) {
  first_ = first_step;
  steps_ = steps;
}

void Progress::step(const StepRecord& r) {
  const std::int64_t done = r.step - first_;
  loss_ = done <= 1 ? r.loss : 0.9 * loss_ + 0.1 * r.loss;
  seconds_ += r.step_ms / 1e3;
  comm_seconds_ += r.comm_exposed_ms / 1e3;
  const double per_second =
      seconds_ > 0 ? static_cast<double>(done) / seconds_ : 0;
  const double left = static_cast<double>(steps_ - r.step);
  draw(fmt::format("[{}] step {}/{}  loss {:.4f}  {:.2f} it/s  {} left  {} "
                   "sent/step  comm {:.1f} %",
                   bar(static_cast<double>(r.step) /
                       static_cast<double>(std::max<std::int64_t>(steps_, 1))),
                   r.step, steps_, loss_, per_second,
                   human_seconds(per_second > 0 ? left / per_second : 0),
                   human_bytes(static_cast<double>(r.sent_bytes)),
                   seconds_ > 0 ? 100 * comm_seconds_ / seconds_ : 0.0),
       r.step == steps_);
}

void Progress::work(std::string_view what, std::int64_t done, std::int64_t of) {
  draw(
      fmt::format(
          "[{}] {} {}/{}",
          bar(of > 0 ? static_cast<double>(done) / static_cast<double>(of) : 0),
          what, done, of),
      false);
}

void Progress::say(const std::string& line) {
  clear();
  std::fprintf(stderr, "%s\n", line.c_str());
  std::fflush(stderr);
}

void Progress::draw(const std::string& line, bool last) {
  const auto now = Clock::now();
  if (!last && now - said_ < (terminal_ ? Clock::duration(kRedraw)
                                        : Clock::duration(kLine))) {
    return;
  }
  said_ = now;
  if (!terminal_) {
    std::fprintf(stderr, "%s\n", line.c_str());
  } else {
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
    drawn_ = true;
  }
  std::fflush(stderr);
}

void Progress::clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

}  // namespace thinwire
