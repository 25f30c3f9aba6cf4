#include "comm/traced_reducer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

double now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

struct FileCloser {
  void operator()(std::FILE* file) const noexcept { std::fclose(file); }
};

class TracedReducer : public Reducer {
 public:
  TracedReducer(std::unique_ptr<Reducer> reducer,
                const std::vector<Bucket>& buckets, const std::string& path)
      : reducer_(std::move(reducer)),
        file_(std::fopen(path.c_str(), "a")),
        ready_(buckets.size()) {
    if (file_ == nullptr) {
      fail<IoError>("{}: cannot be opened: {}", path, std::strerror(errno));
    }
    std::vector<std::string> shapes;
    for (const Bucket& b : buckets) {
      shapes.push_back(fmt::format("{{\"count\":{},\"codec\":\"{}\"}}", b.count,
                                   name_of(b.codec)));
    }
    write(fmt::format("{{\"buckets\":[{}]}}\n", fmt::join(shapes, ",")));
  }

  void begin(std::uint64_t sequence) override {
    sequence_ = sequence;
    std::ranges::fill(ready_, 0.0);
    begin_ = now();
    reducer_->begin(sequence);
  }

  std::int64_t planned_bytes() const override {
    return reducer_->planned_bytes();
  }

  // Each bucket's time is written by the one thread that names it.
  void ready(std::size_t bucket) override {
    ready_.at(bucket) = now();
    reducer_->ready(bucket);
  }

  ExchangeStats finish(Guard& guard) override {
    const double called = now();
    const ExchangeStats stats = reducer_->finish(guard);
    const double done = now();
    for (double& time : ready_) {
      if (time == 0) time = called;
    }
    write(
        fmt::format("{{\"exchange\":{},\"begin\":{:.7f},\"ready\":[{:.7f}],"
                    "\"finish\":{:.7f},\"done\":{:.7f},\"sent\":{}}}\n",
                    sequence_, begin_, fmt::join(ready_, ","), called, done,
                    stats.bytes_sent));
    return stats;
  }

 private:
  void write(const std::string& line) {
    std::fwrite(line.data(), 1, line.size(), file_.get());
  }

  const std::unique_ptr<Reducer> reducer_;
  const std::unique_ptr<std::FILE, FileCloser> file_;
  std::vector<double> ready_;
  std::uint64_t sequence_ = 0;
  double begin_ = 0;
};

}  // namespace

std::unique_ptr<Reducer> make_traced_reducer(std::unique_ptr<Reducer> reducer,
                                             std::vector<Bucket> buckets,
                                             const std::string& path) {
  return std::make_unique<TracedReducer>(std::move(reducer), buckets, path);
}

}  // namespace thinwire
