#include "comm/cuda_library.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <system_error>

#include "base/error.h"
#include "comm/cuda_api.h"
#include "comm/nccl_api.h"

namespace thinwire {
namespace {

constexpr const char* kFile = "libthinwire_cuda.so";
constexpr const char* kRemedy =
    "install the CUDA 13 toolkit and NCCL, configure with -DTHINWIRE_CUDA=ON "
    "and build, or run on the CPU";

std::string find_library() {
  std::error_code none;
  const auto folder =
      std::filesystem::read_symlink("/proc/self/exe", none).parent_path();
  for (const auto& at : {folder, folder.parent_path()}) {
    if (std::filesystem::exists(at / kFile, none)) return at / kFile;
  }
  fail<UsageError>("GPU: {} is not in {}: this build has no GPU support ({})",
                   kFile, folder.string(), kRemedy);
}

}  // namespace

const CudaBindings& open_cuda_library(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    fail<UsageError>("GPU: {} does not load: {} ({})", path, dlerror(),
                     kRemedy);
  }
  using Entry = const CudaBindings*(int);
  auto* entry = reinterpret_cast<Entry*>(dlsym(library, kCudaEntry));
  const CudaBindings* bindings =
      entry == nullptr ? nullptr : entry(kCudaInterface);
  if (bindings == nullptr) {
    fail<UsageError>(
        "GPU: {} is of another version of Thinwire: build it again", path);
  }
  return *bindings;
}

const CudaBindings& load_cuda_library() {
  static const CudaBindings& bindings = open_cuda_library(find_library());
  return bindings;
}

std::string describe_cuda_library() {
  try {
    const CudaBindings& bindings = load_cuda_library();
    int cuda = 0, nccl = 0;
    if (const int code = bindings.cuda->runtime_version(cuda); code != 0) {
      return fmt::format("{}: CUDA runtime: {}", kFile,
                         bindings.cuda->error_text(code));
    }
    if (const int code = bindings.nccl->version(nccl); code != 0) {
      return fmt::format("{}: NCCL: {}", kFile,
                         bindings.nccl->error_text(code));
    }
    return fmt::format("{}: CUDA {}.{}, NCCL {}.{}.{}", kFile, cuda / 1000,
                       cuda % 1000 / 10, nccl / 10000, nccl % 10000 / 100,
                       nccl % 100);
  } catch (const Error& error) {
    return error.what();
  }
}

std::string describe_gpus() try {
  CudaApi& cuda = *load_cuda_library().cuda;
  int count = 0;
  if (const int code = cuda.device_count(count); code != 0) {
    cuda.last_error();
    return fmt::format("none: {}", cuda.error_text(code));
  }
  std::map<std::string, int> kinds;
  for (int device = 0; device < count; ++device) {
    GpuIdentity gpu;
    if (const int code = cuda.identify(device, gpu); code != 0) {
      return fmt::format("GPU {}: {}", device, cuda.error_text(code));
    }
    ++kinds[fmt::format("{}, {:.1f} GiB", gpu.name,
                        static_cast<double>(gpu.bytes) / (1 << 30))];
  }
  std::string text;
  for (const auto& [kind, n] : kinds) {
    text += fmt::format("{}{} x {}", text.empty() ? "" : "; ", n, kind);
  }
  return text.empty() ? "none" : text;
} catch (const Error&) {
  return "none: this build has no GPU support";
}

}  // namespace thinwire
