// All-reduces measured and checked: by size, algorithm, codec and path. All
// ranks run the same; docs/exchange.md has the formulas behind the figures.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "comm/algorithm.h"
#include "comm/communicator.h"
#include "comm/link_model.h"

namespace thinwire {

// How a vector gets to the wire.
enum class BenchPath {
  kCollective,  // Communicator::all_reduce
  kTrainer,     // what a training step runs: reducer, guard, accounting
  kMpi,         // MPI_Allreduce itself, nothing of ours around it
};
std::string_view name_of(BenchPath path) noexcept;

struct BenchCase {
  BenchPath path = BenchPath::kCollective;
  Algorithm algorithm = Algorithm::kAuto;
  Codec codec = Codec::kFp32;
};

struct CommBenchOptions {
  std::vector<BenchCase> cases;
  std::vector<std::int64_t> sizes;  // payload bytes, multiples of 4
  double seconds = 0.1;             // of each case and size; 0: check only
  int rounds = 4;                   // in which the cases take turns
  LinkModel link;                   // what algorithm auto goes by
};

struct CommBenchRow {
  BenchCase what;
  std::int64_t bytes = 0;  // payload: 4 * numbers
  // The largest difference from the true sum, and what the codec allows; 0 and
  // 0 where sums are exact. A difference above it, or ranks whose bits differ,
  // is an error and no row.
  double error = 0, allowed = 0;
  std::vector<ByteCount> per_rank;  // of one exchange; empty for kMpi
  std::int64_t calls = 0;
  // Seconds of one exchange, of the slowest rank; 0 without timing.
  double p50 = 0, p95 = 0, least = 0;
  std::vector<double> round_p50;  // rank 0's, in the order they were measured
};

// Blocks on all ranks; equal on all ranks but for round_p50. Throws CommError
// when an answer is wrong, naming case, size and index.
std::vector<CommBenchRow> bench_comm(Communicator& comm,
                                     const CommBenchOptions& options);

// Compute beside an exchange in flight: what it costs the computing thread.
struct SlowdownRow {
  BenchCase what;
  std::int64_t bytes = 0;
  double alone = 0, beside = 0;  // seconds of the same work, medians
  double slowed = 0;             // median of beside / alone - 1, worst rank
  double covered = 0;            // share of the work with an exchange in flight
  double exposed = 0;            // seconds blocked after it, median
};
// seconds: of the work. Through the trainer's path.
std::vector<SlowdownRow> bench_slowdown(Communicator& comm,
                                        const CommBenchOptions& options,
                                        double seconds);

// Least squares of seconds = alpha + beta * bytes, relative errors weighed
// alike. residual: root mean square of the relative error. Needs two sizes.
struct LineFit {
  double alpha = 0, beta = 0, residual = 0;
};
LineFit fit_line(const std::vector<double>& bytes,
                 const std::vector<double>& seconds);

// q in [0, 1]; the nearest rank. Empty: 0.
double quantile(std::vector<double> values, double q);

}  // namespace thinwire
