// The reducer of a device vector by way of pinned host memory.
#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <exception>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "comm/cuda_stream.h"
#include "comm/device_reducer.h"

namespace thinwire {
namespace {

class StagedReducer : public Reducer {
 public:
  StagedReducer(CudaApi& cuda, Communicator& comm, at::Tensor& vector,
                ReducerOptions options, double grace_seconds)
      : cuda_(on_device(cuda, vector.device().index())),
        comm_(comm),
        device_(vector.device().index()),
        data_(vector.data_ptr<float>()),
        bytes_(vector.nbytes()),
        grace_seconds_(grace_seconds),
        stream_(cuda),
        copied_(cuda),
        buckets_(options.buckets),
        host_(std::make_unique<Host>(cuda, vector.numel())) {
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      final_.emplace_back(cuda);
      host_->arrivals.push_back({host_.get(), i});
    }
    ready_.assign(buckets_.size(), false);
    host_->reducer = make_reducer(comm, host_->vector, std::move(options));
  }

  // The device may still write to the pinned memory, and its runtime call
  // arrived().
  ~StagedReducer() override {
    if (!open_) return;
    const auto drained = [&] {
      return cuda_.event_query(copied_.get()) != CudaApi::kNotReady;
    };
    if (cuda_.event_record(copied_.get(), stream_.get()) == CudaApi::kSuccess &&
        poll_until(deadline_after(grace_seconds_), drained)) {
      return;
    }
    spdlog::warn("copies of the exchange are stuck; their memory is kept");
    host_->pinned.detach();
    host_.release();
  }

  void begin(std::uint64_t sequence) override {
    const std::lock_guard lock(mutex_);
    THINWIRE_ASSERT(!open_, "exchange {} within {}", sequence, sequence_);
    sequence_ = sequence;
    ready_.assign(buckets_.size(), false);
    failure_.clear();
    open_ = true;
    host_->reducer->begin(sequence);
  }

  void ready(std::size_t bucket) override {
    const std::lock_guard lock(mutex_);
    THINWIRE_ASSERT(open_ && bucket < ready_.size() && !ready_[bucket],
                    "bucket {} of {}", bucket, ready_.size());
    ready_[bucket] = true;
    const Bucket& b = buckets_[bucket];
    const CudaEventHandle final = final_[bucket].get();
    note(cuda_.event_record(final, cuda_.compute_stream(device_)),
         "cudaEventRecord");
    note(cuda_.stream_wait_event(stream_.get(), final), "cudaStreamWaitEvent");
    note(cuda_.memcpy_async(
             host_->pinned.data() + 4 * b.offset, data_ + b.offset,
             static_cast<std::size_t>(4 * b.count), stream_.get()),
         "cudaMemcpyAsync to the host");
    note(cuda_.launch_host_function(stream_.get(), &arrived,
                                    &host_->arrivals[bucket]),
         "cudaLaunchHostFunc");
  }

  ExchangeStats finish(Guard& guard) override {
    const auto begin = SteadyClock::now();
    for (std::size_t i = 0; i < buckets_.size(); ++i) {
      if (!is_ready(i)) ready(i);
    }
    if (!failure_.empty()) raise(failure_);
    check(cuda_.event_record(copied_.get(), stream_.get()), "cudaEventRecord");
    await_copies("to the host");
    if (host_->error) std::rethrow_exception(host_->error);
    ExchangeStats stats = host_->reducer->finish(guard);
    check(
        cuda_.memcpy_async(data_, host_->pinned.data(), bytes_, stream_.get()),
        "cudaMemcpyAsync to the device");
    check(cuda_.event_record(copied_.get(), stream_.get()), "cudaEventRecord");
    check(cuda_.stream_wait_event(cuda_.compute_stream(device_), copied_.get()),
          "cudaStreamWaitEvent");
    await_copies("to the device");
    open_ = false;
    stats.seconds_blocked =
        std::chrono::duration<double>(SteadyClock::now() - begin).count();
    return stats;
  }

 private:
  struct Host;
  struct Arrival {
    Host* host;
    std::size_t bucket;
  };
  // What the device and the runtime's thread use.
  struct Host {
    Host(CudaApi& cuda, std::int64_t count)
        : pinned(cuda, static_cast<std::size_t>(4 * count)),
          vector(at::from_blob(pinned.data(), {count},
                               at::TensorOptions().dtype(at::kFloat))) {}
    PinnedBuffer pinned;
    at::Tensor vector;
    std::vector<Arrival> arrivals;
    std::unique_ptr<Reducer> reducer;
    std::exception_ptr error;  // read once all has arrived
  };

  static CudaApi& on_device(CudaApi& cuda, int device) {
    check_cuda(cuda, cuda.set_device(device), "cudaSetDevice");
    return cuda;
  }

  // A bucket is in host memory. On a thread of the runtime, which must not see
  // an exception.
  static void arrived(void* data) {
    const Arrival& arrival = *static_cast<Arrival*>(data);
    try {
      arrival.host->reducer->ready(arrival.bucket);
    } catch (...) {
      arrival.host->error = std::current_exception();
    }
  }

  bool is_ready(std::size_t bucket) {
    const std::lock_guard lock(mutex_);
    return ready_[bucket];
  }

  std::string cause_of(int code, std::string_view call) {
    cuda_.last_error();
    return fmt::format("{}: {} (CUDA error {})", call, cuda_.error_text(code),
                       code);
  }
  // ready() does not throw: the first failure is finish()'s.
  void note(int code, std::string_view call) {
    if (code == CudaApi::kSuccess || !failure_.empty()) return;
    failure_ = cause_of(code, call);
  }
  void check(int code, std::string_view call) {
    if (code != CudaApi::kSuccess) raise(cause_of(code, call));
  }
  [[noreturn]] void raise(const std::string& cause) const {
    fail<CommError>(
        "exchange {} through host memory on rank {} of {} (GPU "
        "{}): {}",
        sequence_, comm_.rank(), comm_.size(), device_, cause);
  }

  void await_copies(std::string_view where) {
    const double timeout = comm_.default_timeout_seconds();
    const bool done = poll_until(deadline_after(timeout), [&] {
      const int code = cuda_.event_query(copied_.get());
      if (code != CudaApi::kNotReady) check(code, "cudaEventQuery");
      return code == CudaApi::kSuccess;
    });
    if (!done)
      raise(fmt::format("copying {} timed out after {:.1f} s", where, timeout));
  }

  CudaApi& cuda_;
  Communicator& comm_;
  const int device_;
  float* const data_;
  const std::size_t bytes_;
  const double grace_seconds_;
  CudaStream stream_;
  std::vector<CudaEvent> final_;  // by bucket
  CudaEvent copied_;
  const std::vector<Bucket> buckets_;
  std::unique_ptr<Host> host_;

  std::mutex mutex_;  // of ready()
  std::vector<bool> ready_;
  std::string failure_;
  std::uint64_t sequence_ = 0;
  bool open_ = false;
};

}  // namespace

std::unique_ptr<Reducer> make_staged_reducer(CudaApi& cuda, Communicator& comm,
                                             at::Tensor& vector,
                                             ReducerOptions options,
                                             double grace_seconds) {
  check_device_vector(vector, options);
  return std::make_unique<StagedReducer>(cuda, comm, vector, std::move(options),
                                         grace_seconds);
}

}  // namespace thinwire
