// What an exchange in flight costs the thread that computes beside it.
#include <ATen/core/Tensor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <span>

#include "launch/bench/comm_bench.h"
#include "launch/bench/subject.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

// Pairs, each in both orders: many and short, since a machine's speed drifts.
constexpr int kRounds = 40;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Products of matrices that stay in the caches, as a backward pass mostly is.
class Work {
 public:
  explicit Work(double seconds)
      : a_(at::full({256, 256}, 0.001, at::TensorOptions().dtype(at::kFloat))),
        b_(a_.clone()) {
    run(20);
    const auto begin = Clock::now();
    run(50);
    products_ =
        std::max(1, static_cast<int>(50 * seconds / seconds_since(begin)));
  }
  int products() const { return products_; }
  void set_products(int products) { products_ = products; }
  double operator()() {
    const auto begin = Clock::now();
    run(products_);
    return seconds_since(begin);
  }

 private:
  void run(int products) {
    for (int i = 0; i < products; ++i) at::mm_out(out_, a_, b_);
  }
  at::Tensor a_, b_;
  at::Tensor out_ =
      at::zeros({256, 256}, at::TensorOptions().dtype(at::kFloat));
  int products_ = 1;
};

double largest(Communicator& comm, double mine) {
  const auto all =
      comm.all_gather_v(std::as_bytes(std::span(&mine, 1)), {.tag = "bench"});
  for (const auto& bytes : all) {
    double theirs = 0;
    std::memcpy(&theirs, bytes.data(), sizeof theirs);
    mine = std::max(mine, theirs);
  }
  return mine;
}

}  // namespace

std::vector<SlowdownRow> bench_slowdown(Communicator& comm,
                                        const CommBenchOptions& options,
                                        double seconds) {
  std::vector<SlowdownRow> rows;
  Work work(seconds);
  for (const std::int64_t size : options.sizes) {
    for (const BenchCase& what : options.cases) {
      if (what.path != BenchPath::kTrainer) continue;
      at::Tensor vector =
          at::zeros({size / 4}, at::TensorOptions().dtype(at::kFloat));
      const auto subject = make_subject(comm, what, options.link, vector);
      subject->exchange();
      std::vector<double> alone, beside, ratios, covered, exposed;
      const auto measure_alone = [&] {
        comm.barrier({.tag = "bench"});
        alone.push_back(work());
      };
      const auto measure_beside = [&] {
        comm.barrier({.tag = "bench"});
        subject->begin();
        beside.push_back(work());
        subject->finish();
        exposed.push_back(subject->blocked());
        covered.push_back(std::min(1.0, subject->in_flight() / beside.back()));
      };
      for (int round = 0; round < kRounds; ++round) {
        measure_alone();
        measure_beside();
        measure_beside();
        measure_alone();
        for (const std::size_t i : {beside.size() - 2, beside.size() - 1}) {
          ratios.push_back(beside[i] / alone[i] - 1);
        }
      }
      rows.push_back({what, size, quantile(alone, 0.5), quantile(beside, 0.5),
                      largest(comm, quantile(ratios, 0.5)),
                      quantile(covered, 0.5), quantile(exposed, 0.5)});
    }
  }
  return rows;
}

}  // namespace thinwire
