#include "launch/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/host.h"
#include "comm/communicator.h"
#include "comm/cuda_api.h"
#include "comm/cuda_library.h"
#include "dist/together.h"
#include "ops/device_kernels.h"

namespace thinwire {
namespace {

constexpr const char* kTorchFile = "libtorch_cuda.so";

std::filesystem::path torch_folder() {
  Dl_info info{};
  const auto function = reinterpret_cast<void*>(&at::set_num_threads);
  THINWIRE_ASSERT(dladdr(function, &info) != 0, "no library holds {}",
                  function);
  return std::filesystem::path(info.dli_fname).parent_path();
}

// Number of this rank among those of its host, and how many they are.
struct Place {
  int index = 0, ranks = 0;
};

Place place_on_host(Communicator& comm) {
  const std::string mine = this_host().hex();
  const auto all =
      comm.all_gather_v(std::as_bytes(std::span(mine)), {.tag = "hosts"});
  Place place;
  for (int rank = 0; rank < comm.size(); ++rank) {
    const auto& host = all[static_cast<std::size_t>(rank)];
    if (!std::ranges::equal(host, std::as_bytes(std::span(mine)))) continue;
    if (rank < comm.rank()) ++place.index;
    ++place.ranks;
  }
  return place;
}

at::Device open_cuda(const Place& place) {
  const CudaBindings& bindings = load_cuda_library();
  CudaApi& cuda = *bindings.cuda;
  int gpus = 0;
  if (const int code = cuda.device_count(gpus); code != 0 || gpus == 0) {
    cuda.last_error();
    fail<UsageError>(
        "device: cuda, but CUDA finds no GPU on this machine ({}); run where "
        "there is one, or set device: cpu",
        code == 0 ? "none" : cuda.error_text(code));
  }
  if (place.ranks > gpus) {
    fail<UsageError>(
        "device: cuda takes a GPU for each rank: this machine has {} ranks and "
        "{} GPUs; start at most as many ranks as GPUs on every machine",
        place.ranks, gpus);
  }
  load_torch_cuda();
  if (const int code = cuda.set_device(place.index); code != 0) {
    cuda.last_error();
    fail<UsageError>("device: cuda, but GPU {} cannot be used: {}", place.index,
                     cuda.error_text(code));
  }
  set_device_kernels(bindings.kernels);
  return {at::kCUDA, static_cast<at::DeviceIndex>(place.index)};
}

}  // namespace

void load_torch_cuda() {
  const std::string path = torch_folder() / kTorchFile;
  // Never closed: kernels register themselves for the life of the process.
  if (dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* why = dlerror();
    fail<UsageError>(
        "device: cuda, but {} does not load: {} (install torch with the "
        "packages that it requires, pip install without --no-deps: "
        "nvidia-cudnn-cu13, nvidia-cublas and others; docs/gpu.md)",
        kTorchFile, why == nullptr ? "unknown" : why);
  }
  if (!at::globalContext().hasCUDA()) {
    fail<UsageError>(
        "device: cuda, but {} offers no CUDA to this LibTorch, which was "
        "started without it; set device: cpu",
        path);
  }
}

at::Device open_device(const std::string& device, Communicator& comm) {
  if (device == "cpu") return at::kCPU;
  const Place place = place_on_host(comm);
  return together(comm, [&] { return open_cuda(place); });
}

}  // namespace thinwire
