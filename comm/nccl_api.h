// NCCL as far as comm/ needs it, without its headers: filled by
// libthinwire_cuda.so (comm/cuda/) from the real one, by a fake in tests. Every
// call returns NCCL's own code. Communicators are non-blocking: a call may
// return kInProgress, and no other may follow before async_error() has said
// that it is over.
#pragma once

#include <array>
#include <cstddef>

#include "comm/combine.h"
#include "comm/communicator.h"
#include "comm/cuda_api.h"

struct ncclComm;

namespace thinwire {

using NcclHandle = ncclComm*;
using NcclId = std::array<std::byte, 128>;

class NcclApi {
 public:
  static constexpr int kSuccess = 0;
  static constexpr int kUnhandledCudaError = 1;
  static constexpr int kInProgress = 7;

  virtual ~NcclApi() = default;

  virtual int version(int& version) noexcept = 0;  // 22809: 2.28.9
  virtual int unique_id(NcclId& out) noexcept = 0;
  // On the current device. `out` may be set although a failure is returned, and
  // is then to be aborted.
  virtual int init(NcclHandle& out, int ranks, const NcclId& id,
                   int rank) noexcept = 0;
  // state: kSuccess, kInProgress, or what has gone wrong since.
  virtual int async_error(NcclHandle comm, int& state) noexcept = 0;

  // In place, on device memory; enqueued on the stream.
  virtual int all_reduce(void* inout, std::size_t count, Element element,
                         ReduceOp op, NcclHandle comm,
                         CudaStreamHandle stream) noexcept = 0;
  virtual int broadcast(void* inout, std::size_t bytes, int root,
                        NcclHandle comm, CudaStreamHandle stream) noexcept = 0;

  // The end in peace: finalize, poll until it is over, destroy. abort() ends at
  // any time, whatever runs on the device; it may block. Both free the handle.
  virtual int finalize(NcclHandle comm) noexcept = 0;
  virtual int destroy(NcclHandle comm) noexcept = 0;
  virtual int abort(NcclHandle comm) noexcept = 0;

  virtual const char* error_text(int code) noexcept = 0;
  // What NCCL logged last about its error; may be empty.
  virtual const char* last_text(NcclHandle comm) noexcept = 0;
};

}  // namespace thinwire
