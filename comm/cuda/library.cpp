// libthinwire_cuda.so: the interfaces of comm/cuda_api.h and comm/nccl_api.h
// over the real libraries, one call each and no decision.
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include <cstring>

#include "comm/cuda_api.h"
#include "comm/cuda_library.h"
#include "comm/nccl_api.h"

namespace thinwire {

const DeviceKernels& cuda_device_kernels();  // ops/cuda/kernels.cu

namespace {

static_assert(CudaApi::kSuccess == cudaSuccess);
static_assert(CudaApi::kNotReady == cudaErrorNotReady);
static_assert(NcclApi::kSuccess == ncclSuccess);
static_assert(NcclApi::kUnhandledCudaError == ncclUnhandledCudaError);
static_assert(NcclApi::kInProgress == ncclInProgress);
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

class Cuda : public CudaApi {
 public:
  int runtime_version(int& version) noexcept override {
    return cudaRuntimeGetVersion(&version);
  }
  int device_count(int& count) noexcept override {
    return cudaGetDeviceCount(&count);
  }
  int identify(int device, GpuIdentity& out) override {
    cudaDeviceProp properties;
    const int code = cudaGetDeviceProperties(&properties, device);
    if (code != cudaSuccess) return code;
    static_assert(sizeof out.uuid == sizeof properties.uuid);
    std::memcpy(out.uuid.data(), &properties.uuid, sizeof out.uuid);
    out.name = properties.name;
    out.bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
    return code;
  }
  int set_device(int device) noexcept override { return cudaSetDevice(device); }

  CudaStreamHandle compute_stream(int device) noexcept override {
    return c10::cuda::getCurrentCUDAStream(
               static_cast<c10::DeviceIndex>(device))
        .stream();
  }
  int stream_create(CudaStreamHandle& out) noexcept override {
    int least = 0, greatest = 0;
    const int code = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (code != cudaSuccess) return code;
    return cudaStreamCreateWithPriority(&out, cudaStreamNonBlocking, greatest);
  }
  int stream_destroy(CudaStreamHandle stream) noexcept override {
    return cudaStreamDestroy(stream);
  }
  int stream_wait_event(CudaStreamHandle stream,
                        CudaEventHandle event) noexcept override {
    return cudaStreamWaitEvent(stream, event, 0);
  }
  int launch_host_function(CudaStreamHandle stream, void (*function)(void*),
                           void* data) noexcept override {
    return cudaLaunchHostFunc(stream, function, data);
  }

  int event_create(CudaEventHandle& out) noexcept override {
    return cudaEventCreateWithFlags(&out, cudaEventDisableTiming);
  }
  int event_destroy(CudaEventHandle event) noexcept override {
    return cudaEventDestroy(event);
  }
  int event_record(CudaEventHandle event,
                   CudaStreamHandle stream) noexcept override {
    return cudaEventRecord(event, stream);
  }
  int event_query(CudaEventHandle event) noexcept override {
    return cudaEventQuery(event);
  }

  int memcpy_async(void* to, const void* from, std::size_t bytes,
                   CudaStreamHandle stream) noexcept override {
    return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream);
  }
  int host_alloc(void*& out, std::size_t bytes) noexcept override {
    return cudaHostAlloc(&out, bytes, cudaHostAllocPortable);
  }
  int host_free(void* data) noexcept override { return cudaFreeHost(data); }

  int last_error() noexcept override { return cudaGetLastError(); }
  const char* error_text(int code) noexcept override {
    return cudaGetErrorString(static_cast<cudaError_t>(code));
  }
};

ncclDataType_t type_of(Element element) {
  switch (element) {
    case Element::kFloat64:
      return ncclFloat64;
    case Element::kInt64:
      return ncclInt64;
    case Element::kFloat32:
      break;
  }
  return ncclFloat32;
}

ncclRedOp_t op_of(ReduceOp op) {
  switch (op) {
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
    case ReduceOp::kSum:
      break;
  }
  return ncclSum;
}

class Nccl : public NcclApi {
 public:
  int version(int& version) noexcept override {
    return ncclGetVersion(&version);
  }
  int unique_id(NcclId& out) noexcept override {
    ncclUniqueId id;
    const int code = ncclGetUniqueId(&id);
    std::memcpy(out.data(), &id, sizeof id);
    return code;
  }
  int init(NcclHandle& out, int ranks, const NcclId& id,
           int rank) noexcept override {
    ncclUniqueId native;
    std::memcpy(&native, id.data(), sizeof native);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    return ncclCommInitRankConfig(&out, ranks, native, rank, &config);
  }
  int async_error(NcclHandle comm, int& state) noexcept override {
    ncclResult_t result = ncclSuccess;
    const int code = ncclCommGetAsyncError(comm, &result);
    state = result;
    return code;
  }
  int all_reduce(void* inout, std::size_t count, Element element, ReduceOp op,
                 NcclHandle comm, CudaStreamHandle stream) noexcept override {
    return ncclAllReduce(inout, inout, count, type_of(element), op_of(op), comm,
                         stream);
  }
  int broadcast(void* inout, std::size_t bytes, int root, NcclHandle comm,
                CudaStreamHandle stream) noexcept override {
    return ncclBroadcast(inout, inout, bytes, ncclInt8, root, comm, stream);
  }
  int finalize(NcclHandle comm) noexcept override {
    return ncclCommFinalize(comm);
  }
  int destroy(NcclHandle comm) noexcept override {
    return ncclCommDestroy(comm);
  }
  int abort(NcclHandle comm) noexcept override { return ncclCommAbort(comm); }
  const char* error_text(int code) noexcept override {
    return ncclGetErrorString(static_cast<ncclResult_t>(code));
  }
  const char* last_text(NcclHandle comm) noexcept override {
    return ncclGetLastError(comm);
  }
};

}  // namespace
}  // namespace thinwire

extern "C" const thinwire::CudaBindings* thinwire_cuda_bindings(int interface) {
  static thinwire::Cuda cuda;
  static thinwire::Nccl nccl;
  static const thinwire::CudaBindings bindings{
      &cuda, &nccl, &thinwire::cuda_device_kernels()};
  return interface == thinwire::kCudaInterface ? &bindings : nullptr;
}
