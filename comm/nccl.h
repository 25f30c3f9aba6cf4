// One NCCL communicator of one rank with a side stream of its own.
//
// Everything that could block is polled with a deadline, together with NCCL's
// asynchronous errors and what the host knows of ranks that are dead or have
// stopped. The first failure aborts the communicator, once, and
// becomes one CommError that names rank, GPU, operation, cause and what the
// other ranks say of themselves over the host. Small exchanges on the host make
// sure that all ranks mean the same before anything starts on the devices: NCCL
// itself would hang or mix numbers up.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "comm/communicator.h"
#include "comm/cuda_stream.h"
#include "comm/nccl_api.h"
#include "comm/transport.h"

namespace thinwire {

// What is being done, for messages.
struct NcclWork {
  std::string_view call;     // all_reduce, broadcast
  std::string_view tag;      // what is exchanged
  std::int64_t bucket = -1;  // -1: not one of several
  std::int64_t sequence = -1;
};

struct NcclOptions {
  // For what must not hold up the end: a farewell, an abort, a question to
  // ranks that may be dead.
  double grace_seconds = 5;
};

class NcclGroup {
 public:
  // Of all ranks of `host`, of which it makes a copy for itself; this rank's
  // GPU is number `device` of this process, and every thread that calls is left
  // on it. Blocks on the other ranks, at most host's default timeout for each
  // part; later waits keep to that timeout too. Throws on all ranks alike:
  // UsageError when two ranks share a GPU, CommError. The interfaces outlive
  // it.
  NcclGroup(CudaApi& cuda, NcclApi& nccl, Communicator& host, int device,
            NcclOptions options = {});
  // In peace when nothing has failed: blocks until the other ranks do the same,
  // for the grace at most.
  ~NcclGroup();
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;

  int rank() const noexcept { return host_->rank(); }
  int size() const noexcept { return host_->size(); }
  int device() const noexcept { return device_; }
  CudaApi& cuda() noexcept { return cuda_; }
  CudaStreamHandle stream() const noexcept { return stream_.get(); }
  ByteCount host_bytes() const noexcept { return host_->bytes(); }

  double timeout_seconds() const noexcept {
    return host_->default_timeout_seconds();
  }
  void set_timeout_seconds(double seconds) {
    host_->set_default_timeout_seconds(seconds);
  }

  // All that follow: one thread at a time. They throw CommError.

  // What every rank passes, over the host. Blocks.
  std::vector<std::string> gather(std::string_view mine, const NcclWork& work);
  // All ranks pass the same text, over the host; else every one throws, naming
  // the ranks. Blocks.
  void agree(std::string_view value, const NcclWork& work);

  // Put the operation on the side stream. In place, on device memory.
  void all_reduce(void* data, std::int64_t count, Element element, ReduceOp op,
                  const NcclWork& work);
  void broadcast(void* data, std::int64_t bytes, int root,
                 const NcclWork& work);
  // Blocks until the event, recorded on the side stream, has happened.
  void wait(const CudaEvent& event, const NcclWork& work);

  // Throws if the code is not success.
  void check(int cuda_code, std::string_view call, const NcclWork& work);
  // Aborts the communicator and throws CommError.
  [[noreturn]] void raise(const NcclWork& work, const std::string& cause);

  // Ends whatever is in flight: waits, present and future, throw, and the
  // farewell is an abort. From any thread.
  void cancel() noexcept { cancelled_ = true; }

 private:
  void prepare();
  void connect();
  template <class Body>
  void share_error(Body body);
  void settle(int code, std::string_view call, const NcclWork& work);
  bool settled(std::string_view call, const NcclWork& work);
  void look_for_failures(const NcclWork& work);
  void tell(const std::string& why) noexcept;
  [[noreturn]] void raise_timeout(const NcclWork& work);
  std::string cause_of(std::string_view call, int nccl_code);
  std::string name_of(const NcclWork& work) const;
  std::string abort() noexcept;
  NcclHandle live(const NcclWork& work);

  CudaApi& cuda_;
  NcclApi& nccl_;
  const int device_;
  const NcclOptions options_;
  Communicator& parent_;
  const std::unique_ptr<Communicator> host_;
  const std::unique_ptr<Transport> notices_;  // nothing is sent but stop()
  int looked_at_ = 0;                         // the rank looked at last
  CudaStream stream_;
  std::atomic<NcclHandle> comm_{nullptr};
  std::atomic<bool> cancelled_{false};
  bool connected_ = false;
  const int exceptions_ = std::uncaught_exceptions();
  std::string failure_;  // the first, for later calls
};

// `host` with device tensors by NCCL: all_reduce (fp32, fp64, int64) and
// broadcast of contiguous tensors on GPU `device`, ordered after what the
// calling thread has put on its compute stream, and done when the call returns.
// All else goes to the host, as before. The interfaces outlive it. Blocks and
// throws as NcclGroup.
std::unique_ptr<Communicator> make_nccl_communicator(
    CudaApi& cuda, NcclApi& nccl, std::unique_ptr<Communicator> host,
    int device, NcclOptions options = {});

}  // namespace thinwire
