// Reducers (comm/reducer.h) of a vector on a GPU.
//
// NCCL   fp32 buckets go on a side stream, each after an event on the compute
//        stream that produced it. Ranks agree on the exchange before the first
//        and exchange their guards before finish() believes the last.
// staged each bucket is copied to pinned host memory on a side stream and
//        goes through a host reducer from there; the sums are copied back.
//        Takes every codec and algorithm of the host, and several ranks a GPU.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "comm/nccl.h"
#include "comm/reducer.h"

namespace thinwire {

// vector: contiguous CUDA fp32 [k], owned by the caller, outliving the reducer
// as do the interfaces. ready() records on the compute stream of the thread
// that calls; finish() returns when the sums are in the vector, and before
// anything that the compute stream holds later. Blocks on the other ranks and
// throws as NcclGroup; UsageError for another codec than fp32.
//
// Bytes are those of the host's messages and, for the device, of a ring: NCCL
// does not say what it sends.
std::unique_ptr<Reducer> make_nccl_reducer(CudaApi& cuda, NcclApi& nccl,
                                           Communicator& comm,
                                           at::Tensor& vector,
                                           ReducerOptions options,
                                           NcclOptions nccl_options = {});

// The same vector; residual, if any, is on the CPU. A reducer that goes away in
// the middle of an exchange waits for its copies, for the grace at most.
std::unique_ptr<Reducer> make_staged_reducer(CudaApi& cuda, Communicator& comm,
                                             at::Tensor& vector,
                                             ReducerOptions options,
                                             double grace_seconds = 5);

// Throws InternalError unless the vector is as said and the buckets cover it.
void check_device_vector(const at::Tensor& vector,
                         const ReducerOptions& options);

struct DeviceChoice {
  bool nccl = false;
  std::string why;  // one line for the log
};

// How ranks exchange what is on their GPUs. wanted: auto (NCCL where it can
// be), nccl, mpi (staged). Blocks on the other ranks, which all get the same
// answer. Throws UsageError on all when `nccl` cannot be, saying why.
DeviceChoice choose_device_exchange(CudaApi& cuda, Communicator& comm,
                                    int device, std::string_view wanted,
                                    const ReducerOptions& options);

// The reducer of that choice, which rank 0 logs.
std::unique_ptr<Reducer> make_device_reducer(CudaApi& cuda, NcclApi& nccl,
                                             Communicator& comm,
                                             at::Tensor& vector,
                                             ReducerOptions options,
                                             std::string_view wanted,
                                             NcclOptions nccl_options = {});

}  // namespace thinwire
