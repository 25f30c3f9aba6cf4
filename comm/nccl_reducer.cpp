// The reducer by NCCL. A thread of its own opens each exchange and enqueues the
// buckets in their order while the caller still computes: opening waits for the
// other ranks, and so may NCCL when it connects.
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "comm/device_reducer.h"

namespace thinwire {
namespace {

class NcclReducer : public Reducer {
 public:
  NcclReducer(CudaApi& cuda, NcclApi& nccl, Communicator& comm,
              at::Tensor& vector, ReducerOptions options,
              NcclOptions nccl_options)
      : cuda_(cuda),
        data_(vector.data_ptr<float>()),
        buckets_(std::move(options.buckets)),
        ready_(buckets_.size(), false),
        group_(cuda, nccl, comm, vector.device().index(),
               std::move(nccl_options)),
        done_(cuda) {
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      final_.emplace_back(cuda);
    }
    std::vector<std::int64_t> ranges;
    for (const Bucket& b : buckets_)
      ranges.insert(ranges.end(), {b.offset, b.count});
    layout_ = hash128(std::as_bytes(std::span(ranges))).hex();
    if (options.overlap) thread_ = std::thread([this] { run(); });
  }

  ~NcclReducer() override {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
      if (open_) group_.cancel();
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  void begin(std::uint64_t sequence) override {
    const std::lock_guard lock(mutex_);
    THINWIRE_ASSERT(!open_, "exchange {} within {}", sequence, sequence_);
    sequence_ = sequence;
    ready_.assign(buckets_.size(), false);
    record_code_ = CudaApi::kSuccess;
    open_ = true;
    started_ = launched_ = false;
    changed_.notify_all();
  }

  void ready(std::size_t bucket) override {
    const std::lock_guard lock(mutex_);
    THINWIRE_ASSERT(open_ && bucket < ready_.size() && !ready_[bucket],
                    "bucket {} of {}", bucket, ready_.size());
    const int code = cuda_.event_record(final_[bucket].get(),
                                        cuda_.compute_stream(group_.device()));
    if (code != CudaApi::kSuccess) record_code_ = code;
    ready_[bucket] = true;
    changed_.notify_all();
  }

  ExchangeStats finish(Guard& guard) override {
    const auto begin = SteadyClock::now();
    for (std::size_t i = 0; i < ready_.size(); ++i) {
      if (!is_ready(i)) ready(i);
    }
    if (thread_.joinable()) {
      await_launch();
      exchange_guards(guard);
    } else {
      agree_on_exchange();
      exchange_guards(guard);
      launch();
    }
    const NcclWork work = work_of(-1);
    group_.check(cuda_.stream_wait_event(cuda_.compute_stream(group_.device()),
                                         done_.get()),
                 "cudaStreamWaitEvent", work);
    group_.wait(done_, work);
    const auto end = SteadyClock::now();
    const std::lock_guard lock(mutex_);
    open_ = false;
    return stats(begin, end);
  }

 private:
  using Seconds = std::chrono::duration<double>;

  NcclWork work_of(std::int64_t bucket) const {
    return {.call = "all_reduce",
            .tag = "grads",
            .bucket = bucket,
            .sequence = static_cast<std::int64_t>(sequence_)};
  }

  bool is_ready(std::size_t bucket) {
    const std::lock_guard lock(mutex_);
    return ready_[bucket];
  }

  void run() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return stopped_ || (open_ && !started_); });
      if (stopped_) return;
      started_ = true;
      lock.unlock();
      std::exception_ptr error;
      try {
        agree_on_exchange();
        launch();
      } catch (...) {
        error = std::current_exception();
      }
      lock.lock();
      error_ = error;
      launched_ = true;
      changed_.notify_all();
    }
  }

  void await_launch() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return launched_; });
    if (error_) std::rethrow_exception(error_);
  }

  // Nothing starts on a device before all ranks have said that they mean the
  // same exchange of the same buckets.
  void agree_on_exchange() {
    host_before_ = group_.host_bytes();
    group_.agree(fmt::format("exchange {} of {} buckets, layout {}", sequence_,
                             buckets_.size(), layout_),
                 work_of(-1));
  }

  void launch() {
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      const NcclWork work = work_of(static_cast<std::int64_t>(i));
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopped_ || ready_[i]; });
        if (!ready_[i]) group_.raise(work, "given up by this rank");
        group_.check(record_code_, "cudaEventRecord", work);
      }
      group_.check(cuda_.stream_wait_event(group_.stream(), final_[i].get()),
                   "cudaStreamWaitEvent", work);
      if (i == 0) first_ = SteadyClock::now();
      group_.all_reduce(data_ + buckets_[i].offset, buckets_[i].count,
                        Element::kFloat32, ReduceOp::kSum, work);
    }
    group_.check(cuda_.event_record(done_.get(), group_.stream()),
                 "cudaEventRecord", work_of(-1));
  }

  void exchange_guards(Guard& guard) {
    if (group_.size() == 1) return;
    const NcclWork work{.call = "guard",
                        .tag = "guard",
                        .sequence = static_cast<std::int64_t>(sequence_)};
    const auto all = group_.gather(
        {reinterpret_cast<const char*>(&guard), sizeof guard}, work);
    const std::uint32_t mine = guard.fingerprint;
    for (std::size_t r = 0; r < all.size(); ++r) {
      Guard theirs;
      if (all[r].size() != sizeof theirs) {
        group_.raise(work, fmt::format("rank {} sent {} bytes, not {}", r,
                                       all[r].size(), sizeof theirs));
      }
      std::memcpy(&theirs, all[r].data(), sizeof theirs);
      if (r == 0) {
        guard = theirs;
      } else {
        combine(guard, theirs);
      }
    }
    if ((guard.flags & Guard::kMismatch) != 0) {
      group_.agree(fmt::format("{:08x}", mine), work);
    }
  }

  ExchangeStats stats(SteadyClock::time_point begin,
                      SteadyClock::time_point end) const {
    const ByteCount host = group_.host_bytes();
    std::int64_t ring = 0;
    const std::int64_t ranks = group_.size();
    for (const Bucket& b : buckets_) {
      ring += 2 * (ranks - 1) * b.count * 4 / ranks;
    }
    return {host.sent - host_before_.sent + ring,
            host.received - host_before_.received + ring,
            Seconds(end - begin).count(),
            buckets_.empty() ? 0 : Seconds(end - first_).count()};
  }

  CudaApi& cuda_;
  float* const data_;
  const std::vector<Bucket> buckets_;
  std::string layout_;

  std::mutex mutex_;  // guards what follows, up to the blank line
  std::condition_variable changed_;
  bool stopped_ = false;   // the reducer is going away
  bool open_ = false;      // between begin() and finish()
  bool started_ = false;   // the thread has taken the exchange up
  bool launched_ = false;  // and put everything on the stream, or error_
  std::exception_ptr error_;
  std::uint64_t sequence_ = 0;  // written by begin() alone
  std::vector<bool> ready_;
  int record_code_ = CudaApi::kSuccess;

  ByteCount host_before_;
  SteadyClock::time_point first_;
  NcclGroup group_;
  std::vector<CudaEvent> final_;
  CudaEvent done_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Reducer> make_nccl_reducer(CudaApi& cuda, NcclApi& nccl,
                                           Communicator& comm,
                                           at::Tensor& vector,
                                           ReducerOptions options,
                                           NcclOptions nccl_options) {
  check_device_vector(vector, options);
  for (const Bucket& bucket : options.buckets) {
    if (bucket.codec == Codec::kFp32) continue;
    fail<UsageError>(
        "nccl: codec {} is made on the host: set comm.codec to fp32 or "
        "comm.backend to mpi",
        name_of(bucket.codec));
  }
  return std::make_unique<NcclReducer>(
      cuda, nccl, comm, vector, std::move(options), std::move(nccl_options));
}

}  // namespace thinwire
