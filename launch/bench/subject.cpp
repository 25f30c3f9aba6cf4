#include "launch/bench/subject.h"

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "base/error.h"
#include "comm/reducer.h"
#include "ops/optimizer_pass.h"

namespace thinwire {
namespace {

constexpr int kVoters = 4;  // bits of the guard that the ranks set in turn

class CollectiveSubject : public Subject {
 public:
  CollectiveSubject(Communicator& comm, const BenchCase& what,
                    at::Tensor& vector)
      : comm_(comm), what_(what), vector_(vector), before_(comm.bytes()) {}
  void exchange() override {
    comm_.all_reduce(
        vector_, ReduceOp::kSum,
        {.tag = "bench", .algorithm = what_.algorithm, .codec = what_.codec});
  }
  ByteCount bytes() const override {
    const ByteCount now = comm_.bytes();
    return {now.sent - before_.sent, now.received - before_.received};
  }

 private:
  Communicator& comm_;
  const BenchCase what_;
  at::Tensor& vector_;
  const ByteCount before_;
};

// The calls of a training step, and its checks of what came back.
class TrainerSubject : public Subject {
 public:
  TrainerSubject(Communicator& comm, const BenchCase& what,
                 const LinkModel& link, at::Tensor& vector)
      : comm_(comm), vector_(vector) {
    ReducerOptions options;
    options.buckets = {{0, vector.numel(), what.codec}};
    options.algorithm = what.algorithm;
    options.link = link;
    reducer_ = make_reducer(comm, vector, std::move(options));
  }
  void exchange() override {
    begin();
    finish();
  }
  void begin() override {
    reducer_->begin(sequence_);
    squares_ = sum_of_squares(vector_.const_data_ptr<float>(), vector_.numel());
    reducer_->ready(0);
  }
  void finish() override {
    Guard guard;
    guard.squares = static_cast<float>(squares_);
    guard.fingerprint = 0x7417;
    guard.flags = 1u << (comm_.rank() % kVoters);
    guard.loss = comm_.rank() + 1;
    guard.weight = 2;
    guard.tokens = 3;
    stats_ = reducer_->finish(guard);
    const int ranks = comm_.size();
    if (guard.loss != ranks * (ranks + 1) / 2 || guard.weight != 2 * ranks ||
        guard.tokens != 3 * static_cast<std::uint32_t>(ranks) ||
        guard.flags != (1u << std::min(ranks, kVoters)) - 1) {
      fail<CommError>(
          "bench: the guard came back wrong: loss {}, weight {}, tokens {}, "
          "flags {:#x}",
          guard.loss, guard.weight, guard.tokens, guard.flags);
    }
    ++sequence_;
    bytes_.sent += stats_.bytes_sent;
    bytes_.received += stats_.bytes_received;
  }
  double in_flight() const override { return stats_.seconds_in_flight; }
  double blocked() const override { return stats_.seconds_blocked; }
  ByteCount bytes() const override { return bytes_; }

 private:
  Communicator& comm_;
  const at::Tensor& vector_;
  std::unique_ptr<Reducer> reducer_;
  double squares_ = 0;
  std::uint64_t sequence_ = 0;
  ExchangeStats stats_;
  ByteCount bytes_;
};

}  // namespace

std::unique_ptr<Subject> make_subject(Communicator& comm, const BenchCase& what,
                                      const LinkModel& link,
                                      at::Tensor& vector) {
  switch (what.path) {
    case BenchPath::kCollective:
      return std::make_unique<CollectiveSubject>(comm, what, vector);
    case BenchPath::kTrainer:
      return std::make_unique<TrainerSubject>(comm, what, link, vector);
    case BenchPath::kMpi:
      return make_mpi_subject(vector);
  }
  fail<InternalError>("bench: path {}", static_cast<int>(what.path));
}

}  // namespace thinwire
