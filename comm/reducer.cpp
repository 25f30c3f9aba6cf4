#include "comm/reducer.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/fleet.h"
#include "comm/manifest.h"
#include "comm/progress.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

float* numbers_of(const at::Tensor& vector, std::string_view what) {
  if (vector.scalar_type() != at::kFloat || vector.dim() != 1 ||
      !vector.is_contiguous() || !vector.device().is_cpu()) {
    fail<InternalError>("reducer: the {} must be contiguous CPU fp32 [k]",
                        what);
  }
  return vector.data_ptr<float>();
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

class FleetReducer : public Reducer {
 public:
  FleetReducer(Communicator& comm, at::Tensor& vector, ReducerOptions options)
      : comm_(comm),
        vector_(vector),
        overlap_(options.overlap && options.algorithm != Algorithm::kMpi),
        transport_(comm.open_transport({.tag = "reducer"})),
        fleet_(*transport_, bytes_,
               [this](const std::string& why) {
                 transport_->stop(why);
                 comm_.stop(why);
               }),
        progress_(fleet_),
        ready_(options.buckets.size(), 0) {
    data_ = numbers_of(vector, "vector");
    check_buckets(options.buckets, vector.numel());
    float* rest = nullptr;
    if (options.residual != nullptr) {
      rest = numbers_of(*options.residual, "residual");
      THINWIRE_ASSERT(options.residual->numel() == vector.numel(),
                      "residual of {} numbers, vector of {}",
                      options.residual->numel(), vector.numel());
    }
    if (options.algorithm == Algorithm::kMpi && !fits_library(options)) {
      fail<UsageError>(
          "comm: algorithm mpi is for backend mpi and codec fp32, got backend "
          "{} (choose another algorithm)",
          transport_->backend());
    }
    manifest_ = make_manifest(
        options,
        {.ranks = comm.size(),
         .rank = comm.rank(),
         .hosts = transport_->hosts(),
         .longest_message =
             static_cast<std::int64_t>(transport_->max_message_bytes())},
        reinterpret_cast<std::byte*>(data_), rest, &guard_);
    fleet_.reserve(manifest_.longest_message, manifest_.longest_code);
  }

  // A rank that unwinds lets the others know, so that none waits for it.
  ~FleetReducer() override {
    if (std::uncaught_exceptions() > exceptions_) {
      transport_->stop("it left with an error");
    }
  }

  void begin(std::uint64_t sequence) override {
    THINWIRE_ASSERT(vector_.const_data_ptr<float>() == data_, "it has moved");
    const std::lock_guard lock(mutex_);
    sequence_ = sequence;
    std::ranges::fill(ready_, 0);
    final_ = released_ = 0;
    {
      const auto taken = progress_.take();
      fleet_.open(CallKind::kExchange, sequence, "", manifest_.legs);
    }
    progress_.give();
  }

  void ready(std::size_t bucket) override {
    const std::lock_guard lock(mutex_);
    THINWIRE_ASSERT(bucket < ready_.size() && ready_[bucket] == 0,
                    "bucket {} of {}", bucket, ready_.size());
    ready_[bucket] = 1;
    const std::size_t before = final_;
    while (final_ < ready_.size() && ready_[final_] != 0) ++final_;
    if (!overlap_ || final_ == before || manifest_.legs.empty()) return;
    // The last leg waits for the guard.
    const std::size_t legs =
        std::min(manifest_.ends[final_ - 1], manifest_.legs.size() - 1);
    if (legs == released_) return;
    fleet_.release(released_ = legs);
    progress_.wake();
  }

  ExchangeStats finish(Guard& guard) override {
    if (manifest_.legs.empty()) return {};
    const auto begin = SteadyClock::now();
    const ByteCount before = counted_;
    const std::uint32_t mine = guard.fingerprint;
    const double timeout = comm_.default_timeout_seconds();
    {
      const auto taken = progress_.take();
      guard_ = guard;
      if (manifest_.guard_first) {
        fleet_.release(1);
        fleet_.wait(1, timeout);
        check_fingerprint(mine);
      }
      fleet_.release(manifest_.legs.size());
      fleet_.wait(manifest_.legs.size(), timeout);
    }
    counted_ = bytes_;
    const ByteCount moved{counted_.sent - before.sent,
                          counted_.received - before.received};
    comm_.count(moved);
    if (!manifest_.guard_first) check_fingerprint(mine);
    guard = guard_;
    using Seconds = std::chrono::duration<double>;
    return {moved.sent, moved.received,
            Seconds(SteadyClock::now() - begin).count(),
            Seconds(fleet_.came_down() - fleet_.took_off()).count()};
  }

  std::int64_t planned_bytes() const override {
    return manifest_bytes(manifest_).sent;
  }

 private:
  bool fits_library(const ReducerOptions& options) const {
    return transport_->has_all_reduce() &&
           std::ranges::all_of(options.buckets, [](const Bucket& b) {
             return b.codec == Codec::kFp32;
           });
  }

  void check_fingerprint(std::uint32_t mine) {
    if ((guard_.flags & Guard::kMismatch) == 0) return;
    agree(comm_, fmt::format("the fingerprint of exchange {}", sequence_),
          fmt::format("{:08x}", mine));
  }

  Communicator& comm_;
  const at::Tensor& vector_;
  const int exceptions_ = std::uncaught_exceptions();
  float* data_ = nullptr;
  const bool overlap_;
  const std::unique_ptr<Transport> transport_;
  ByteCount bytes_, counted_;
  Guard guard_;
  Manifest manifest_;
  Fleet fleet_;
  ProgressThread progress_;

  std::mutex mutex_;  // of what ready() changes
  std::vector<std::uint8_t> ready_;
  std::size_t final_ = 0;     // buckets from the first on that are final
  std::size_t released_ = 0;  // legs
  std::uint64_t sequence_ = 0;
};

}  // namespace

std::unique_ptr<Reducer> make_reducer(Communicator& comm, at::Tensor& vector,
                                      ReducerOptions options) {
  return std::make_unique<FleetReducer>(comm, vector, std::move(options));
}

}  // namespace thinwire
