#include "launch/bench/comm_bench.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <span>

#include "base/error.h"
#include "base/hash.h"
#include "launch/bench/subject.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kMostCalls = 20000;  // of a round

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::string describe(const BenchCase& what, std::int64_t bytes) {
  if (what.path == BenchPath::kMpi) return fmt::format("mpi, {} bytes", bytes);
  return fmt::format("{} {} {}, {} bytes", name_of(what.path),
                     name_of(what.algorithm), name_of(what.codec), bytes);
}

bool exact(Codec codec) { return codec == Codec::kFp32; }

// What rank r puts in: whole numbers whose sums fp32 holds exactly, or
// fractions in [-0.5, 0.5) that a codec has to round.
float coded(std::int64_t i, int rank, Codec codec) {
  if (exact(codec)) {
    return static_cast<float>((i % 251) * (rank + 1) - 100 * rank);
  }
  const std::uint32_t h = static_cast<std::uint32_t>(i) * 2654435761u +
                          static_cast<std::uint32_t>(rank) * 40503u;
  return static_cast<float>(h >> 16) / 65536.0f - 0.5f;
}

void fill(at::Tensor& vector, int rank, Codec codec) {
  float* data = vector.data_ptr<float>();
  for (std::int64_t i = 0; i < vector.numel(); ++i) {
    data[i] = coded(i, rank, codec);
  }
}

// Each rounding on the way to a sum errs by half a step of a value no larger
// than the sum of magnitudes; no algorithm rounds a number more than P + 1
// times in a row.
double allowed_error(Codec codec, int ranks) {
  const double largest = 0.5 * ranks * 1.01;
  switch (codec) {
    case Codec::kFp32:
      return 0;
    case Codec::kBf16:
      return (ranks + 1) * largest / 512;  // 8 bits of significand
    case Codec::kInt8:
      return (ranks + 1) * largest / 254;  // steps of largest / 127
  }
  return 0;
}

// One exchange whose answer is known. Fills error, allowed and per_rank.
void check(Communicator& comm, Subject& subject, at::Tensor& vector,
           CommBenchRow& row) {
  const int ranks = comm.size();
  fill(vector, comm.rank(), row.what.codec);
  const ByteCount before = subject.bytes();
  subject.exchange();
  const ByteCount after = subject.bytes();
  struct Verdict {
    double error = 0;
    std::int64_t index = 0, sent = 0, received = 0;
    Digest digest;
  } mine;
  mine.sent = after.sent - before.sent;
  mine.received = after.received - before.received;
  const float* data = vector.data_ptr<float>();
  for (std::int64_t i = 0; i < vector.numel(); ++i) {
    double want = 0;
    for (int r = 0; r < ranks; ++r) want += coded(i, r, row.what.codec);
    const double error = std::fabs(data[i] - want);
    if (!(error <= mine.error)) {
      mine.error = error;
      mine.index = i;
    }
  }
  mine.digest = hash128(
      std::as_bytes(std::span(data, static_cast<std::size_t>(vector.numel()))));
  const auto all = comm.all_gather_v(std::as_bytes(std::span(&mine, 1)),
                                     {.tag = "bench: answers"});
  row.allowed = allowed_error(row.what.codec, ranks);
  row.per_rank.clear();
  for (std::size_t r = 0; r < all.size(); ++r) {
    Verdict theirs;
    std::memcpy(&theirs, all[r].data(), sizeof theirs);
    row.error = std::max(row.error, theirs.error);
    if (!(theirs.error <= row.allowed)) {
      fail<CommError>(
          "bench: {}: the sum of number {} on rank {} is off by {:g}, {:g} is "
          "allowed",
          describe(row.what, row.bytes), theirs.index, r, theirs.error,
          row.allowed);
    }
    if (theirs.digest != mine.digest && row.what.path != BenchPath::kMpi) {
      fail<CommError>("bench: {}: the sums of ranks {} and {} differ in bits",
                      describe(row.what, row.bytes), comm.rank(), r);
    }
    if (row.what.path != BenchPath::kMpi) {
      row.per_rank.push_back({theirs.sent, theirs.received});
    }
  }
}

// Zeros stay zeros however often they are summed; what is rounded is filled
// anew before each call, outside the time.
void time_calls(Subject& subject, at::Tensor& vector, const BenchCase& what,
                int rank, std::int64_t calls, std::vector<double>& times) {
  for (std::int64_t i = 0; i < calls; ++i) {
    if (!exact(what.codec)) fill(vector, rank, what.codec);
    const auto begin = Clock::now();
    subject.exchange();
    times.push_back(seconds_since(begin));
  }
}

// Whether rank 0 says so.
bool rank_0_says(Communicator& comm, bool mine) {
  const std::byte byte{mine};
  const auto bytes =
      comm.broadcast_bytes(std::span(&byte, 1), 0, {.tag = "bench: go on"});
  return bytes.front() != std::byte{0};
}

// Ever more calls, until the time is over: a machine that is busy elsewhere
// makes fewer.
void time_round(Communicator& comm, Subject& subject, at::Tensor& vector,
                const BenchCase& what, double budget,
                std::vector<double>& times) {
  const auto begin = Clock::now();
  std::int64_t calls = 1, made = 0;
  do {
    time_calls(subject, vector, what, comm.rank(), calls, times);
    made += calls;
    calls = std::min(made, kMostCalls - made);
  } while (rank_0_says(comm, calls > 0 && seconds_since(begin) < budget));
}

struct Contender {
  CommBenchRow row;
  std::unique_ptr<Subject> subject;
  std::vector<double> times;
};

// p50, p95 and least of the slowest rank.
void summarise(Communicator& comm, Contender& c) {
  const double mine[3] = {
      quantile(c.times, 0.5), quantile(c.times, 0.95),
      c.times.empty() ? 0 : *std::ranges::min_element(c.times)};
  const auto all = comm.all_gather_v(std::as_bytes(std::span(mine)),
                                     {.tag = "bench: times"});
  for (const auto& bytes : all) {
    double theirs[3];
    std::memcpy(theirs, bytes.data(), sizeof theirs);
    c.row.p50 = std::max(c.row.p50, theirs[0]);
    c.row.p95 = std::max(c.row.p95, theirs[1]);
    c.row.least = std::max(c.row.least, theirs[2]);
  }
  c.row.calls = static_cast<std::int64_t>(c.times.size());
}

void measure(Communicator& comm, const CommBenchOptions& options,
             std::vector<Contender>& contenders, at::Tensor& vector) {
  for (Contender& c : contenders) {
    vector.zero_();
    std::vector<double> warm;
    time_calls(*c.subject, vector, c.row.what, comm.rank(), 3, warm);
  }
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      // There and back, so that a drift of the machine favours nobody.
      Contender& c = contenders[round % 2 == 0 ? i : contenders.size() - 1 - i];
      vector.zero_();
      comm.barrier({.tag = "bench"});
      const std::size_t first = c.times.size();
      time_round(comm, *c.subject, vector, c.row.what,
                 options.seconds / options.rounds, c.times);
      c.row.round_p50.push_back(quantile(
          {c.times.begin() + static_cast<std::ptrdiff_t>(first), c.times.end()},
          0.5));
    }
  }
  for (Contender& c : contenders) {
    summarise(comm, c);
    check(comm, *c.subject, vector, c.row);
  }
}

}  // namespace

std::string_view name_of(BenchPath path) noexcept {
  switch (path) {
    case BenchPath::kCollective:
      return "collective";
    case BenchPath::kTrainer:
      return "trainer";
    case BenchPath::kMpi:
      return "mpi";
  }
  return "?";
}

std::vector<CommBenchRow> bench_comm(Communicator& comm,
                                     const CommBenchOptions& options) {
  std::vector<CommBenchRow> rows;
  for (const std::int64_t bytes : options.sizes) {
    at::Tensor vector =
        at::empty({bytes / 4}, at::TensorOptions().dtype(at::kFloat));
    std::vector<Contender> contenders;
    for (const BenchCase& what : options.cases) {
      Contender& c = contenders.emplace_back();
      c.row.what = what;
      c.row.bytes = bytes;
      c.subject = make_subject(comm, what, options.link, vector);
      check(comm, *c.subject, vector, c.row);
    }
    if (options.seconds > 0) measure(comm, options, contenders, vector);
    for (Contender& c : contenders) rows.push_back(std::move(c.row));
  }
  return rows;
}

}  // namespace thinwire
