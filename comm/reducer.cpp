#include "comm/reducer.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <span>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

void check_vector(const at::Tensor& vector) {
  if (vector.scalar_type() == at::kFloat && vector.dim() == 1 &&
      vector.is_contiguous() && vector.device().is_cpu()) {
    return;
  }
  fail<InternalError>("reducer: the vector must be contiguous CPU fp32 [k]");
}

void check_buckets(std::vector<Bucket> buckets, std::int64_t size) {
  std::ranges::sort(buckets, {}, &Bucket::offset);
  std::int64_t at = 0;
  for (const Bucket& b : buckets) {
    THINWIRE_ASSERT(b.offset == at && b.count > 0, "bucket [{}, +{}) after {}",
                    b.offset, b.count, at);
    at += b.count;
  }
  THINWIRE_ASSERT(at == size, "buckets of {} numbers, vector of {}", at, size);
}

// Guards first, then the whole vector in one call.
class FlatReducer : public Reducer {
 public:
  FlatReducer(Communicator& comm, at::Tensor& vector, ReducerOptions options)
      : comm_(comm), vector_(vector), ready_(options.buckets.size(), 0) {
    check_vector(vector);
    check_buckets(options.buckets, vector.numel());
    for (const Bucket& b : options.buckets) {
      THINWIRE_ASSERT(b.codec == Codec::kFp32, "codec {}",
                      static_cast<int>(b.codec));
    }
    THINWIRE_ASSERT(options.algorithm == Algorithm::kAuto, "algorithm {}",
                    static_cast<int>(options.algorithm));
  }

  void begin(std::uint64_t sequence) override {
    sequence_ = sequence;
    std::ranges::fill(ready_, 0);
  }

  void ready(std::size_t bucket) override {
    THINWIRE_ASSERT(bucket < ready_.size() && ready_[bucket] == 0,
                    "bucket {} of {}", bucket, ready_.size());
    ready_[bucket] = 1;
  }

  ExchangeStats finish(Guard& guard) override {
    const ByteCount before = comm_.bytes();
    const auto begin = std::chrono::steady_clock::now();
    const auto all = comm_.all_gather_v(std::as_bytes(std::span(&guard, 1)),
                                        {.tag = "guard"});
    const std::uint32_t mine = guard.fingerprint;
    for (std::size_t r = 0; r < all.size(); ++r) {
      THINWIRE_ASSERT(all[r].size() == sizeof guard, "{} bytes", all[r].size());
      Guard theirs;
      std::memcpy(&theirs, all[r].data(), sizeof theirs);
      if (r == 0) {
        guard = theirs;
      } else {
        combine(guard, theirs);
      }
    }
    if ((guard.flags & Guard::kMismatch) != 0) {
      agree(comm_, fmt::format("the fingerprint of exchange {}", sequence_),
            fmt::format("{:08x}", mine));
    }
    comm_.all_reduce(vector_, ReduceOp::kSum, {.tag = "grads"});
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - begin;
    const ByteCount after = comm_.bytes();
    return {after.sent - before.sent, after.received - before.received,
            took.count(), took.count()};
  }

 private:
  Communicator& comm_;
  at::Tensor& vector_;
  std::vector<std::uint8_t> ready_;  // a byte each: written by any thread
  std::uint64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<Reducer> make_reducer(Communicator& comm, at::Tensor& vector,
                                      ReducerOptions options) {
  return std::make_unique<FlatReducer>(comm, vector, std::move(options));
}

}  // namespace thinwire
