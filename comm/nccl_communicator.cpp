// A communicator whose device tensors travel by NCCL.
#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "comm/combine.h"
#include "comm/cuda_stream.h"
#include "comm/nccl.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

std::string_view name_of(ReduceOp op) {
  return op == ReduceOp::kSum ? "sum" : op == ReduceOp::kMax ? "max" : "min";
}

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(CudaApi& cuda, NcclApi& nccl,
                   std::unique_ptr<Communicator> host, int device,
                   NcclOptions options)
      : nccl_(nccl),
        options_(std::move(options)),
        host_(std::move(host)),
        group_(cuda, nccl, *host_, device, options_),
        ready_(cuda),
        done_(cuda) {}

  int rank() const noexcept override { return host_->rank(); }
  int size() const noexcept override { return host_->size(); }
  std::string_view backend() const noexcept override { return "nccl"; }

  void all_reduce(at::Tensor& inout, ReduceOp op,
                  const OpOptions& options) override {
    if (!on_device(inout, "all_reduce", options.tag)) {
      return host_->all_reduce(inout, op, options);
    }
    const Element element = element_of(inout, options.tag);
    const std::int64_t count = inout.numel();
    run({.call = "all_reduce", .tag = options.tag},
        fmt::format("{} of {} x {}", name_of(op), count,
                    c10::toString(inout.scalar_type())),
        [&](const NcclWork& work) {
          group_.all_reduce(inout.data_ptr(), count, element, op, work);
        });
  }

  void broadcast(at::Tensor& inout, int root,
                 const OpOptions& options) override {
    if (!on_device(inout, "broadcast", options.tag)) {
      return host_->broadcast(inout, root, options);
    }
    if (root < 0 || root >= size()) {
      fail<UsageError>("broadcast '{}': root must be in [0, {}], got {}",
                       options.tag, size() - 1, root);
    }
    const auto bytes = static_cast<std::int64_t>(inout.nbytes());
    run({.call = "broadcast", .tag = options.tag},
        fmt::format("{} bytes from rank {}", bytes, root),
        [&](const NcclWork& work) {
          group_.broadcast(inout.data_ptr(), bytes, root, work);
        });
  }

  std::vector<std::vector<std::byte>> all_gather_v(
      std::span<const std::byte> in, const OpOptions& options) override {
    return host_->all_gather_v(in, options);
  }
  std::vector<std::byte> broadcast_bytes(std::span<const std::byte> in,
                                         int root,
                                         const OpOptions& options) override {
    return host_->broadcast_bytes(in, root, options);
  }
  void barrier(const OpOptions& options) override { host_->barrier(options); }
  std::unique_ptr<Communicator> split(int color, int key,
                                      const OpOptions& options) override {
    return std::make_unique<NcclCommunicator>(group_.cuda(), nccl_,
                                              host_->split(color, key, options),
                                              group_.device(), options_);
  }

  // Of the host's messages alone: NCCL does not count its own.
  ByteCount bytes() const noexcept override {
    const ByteCount own = host_->bytes(), group = group_.host_bytes();
    return {own.sent + group.sent, own.received + group.received};
  }
  std::unique_ptr<Transport> open_transport(const OpOptions& options) override {
    return host_->open_transport(options);
  }
  void count(ByteCount moved) noexcept override { host_->count(moved); }
  void stop(std::string_view why) noexcept override { host_->stop(why); }
  double default_timeout_seconds() const noexcept override {
    return host_->default_timeout_seconds();
  }
  void set_default_timeout_seconds(double seconds) override {
    host_->set_default_timeout_seconds(seconds);
    group_.set_timeout_seconds(seconds);
  }

 private:
  bool on_device(const at::Tensor& tensor, std::string_view call,
                 std::string_view tag) const {
    if (!tensor.defined() || !tensor.device().is_cuda()) return false;
    if (tensor.device().index() != group_.device() || !tensor.is_contiguous()) {
      fail<UsageError>("{} '{}': the tensor must be contiguous and on GPU {}",
                       call, tag, group_.device());
    }
    return true;
  }

  // The ranks agree what they are about to do; then the operation follows what
  // the compute stream holds, and the compute stream follows the operation.
  template <class Operation>
  void run(const NcclWork& work, const std::string& what, Operation operation) {
    group_.agree(fmt::format("call {}: {} {}", calls_++, work.call, what),
                 work);
    CudaApi& cuda = group_.cuda();
    const CudaStreamHandle compute = cuda.compute_stream(group_.device());
    group_.check(cuda.event_record(ready_.get(), compute), "cudaEventRecord",
                 work);
    group_.check(cuda.stream_wait_event(group_.stream(), ready_.get()),
                 "cudaStreamWaitEvent", work);
    operation(work);
    group_.check(cuda.event_record(done_.get(), group_.stream()),
                 "cudaEventRecord", work);
    group_.check(cuda.stream_wait_event(compute, done_.get()),
                 "cudaStreamWaitEvent", work);
    group_.wait(done_, work);
  }

  NcclApi& nccl_;
  const NcclOptions options_;
  const std::unique_ptr<Communicator> host_;
  NcclGroup group_;
  CudaEvent ready_, done_;
  std::uint64_t calls_ = 0;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(
    CudaApi& cuda, NcclApi& nccl, std::unique_ptr<Communicator> host,
    int device, NcclOptions options) {
  return std::make_unique<NcclCommunicator>(cuda, nccl, std::move(host), device,
                                            std::move(options));
}

}  // namespace thinwire
