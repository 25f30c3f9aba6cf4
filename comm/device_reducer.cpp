#include "comm/device_reducer.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

// What a rank says of its GPU.
struct Card {
  std::array<std::byte, 16> uuid{};
  std::int32_t code = 0;  // of the runtime, when it could not look
};

// Why NCCL cannot be used; empty: it can.
std::string obstacle(CudaApi& cuda, Communicator& comm, int device,
                     const ReducerOptions& options) {
  if (options.algorithm != Algorithm::kAuto) {
    return fmt::format("algorithm {} runs on the host",
                       name_of(options.algorithm));
  }
  for (const Bucket& bucket : options.buckets) {
    if (bucket.codec != Codec::kFp32) {
      return fmt::format("codec {} is made on the host", name_of(bucket.codec));
    }
  }
  GpuIdentity gpu;
  Card mine;
  mine.code = cuda.identify(device, gpu);
  mine.uuid = gpu.uuid;
  const auto all =
      comm.all_gather_v(std::as_bytes(std::span(&mine, 1)), {.tag = "GPUs"});
  std::map<std::array<std::byte, 16>, int> owners;
  for (int r = 0; r < comm.size(); ++r) {
    Card card;
    std::memcpy(&card, all[static_cast<std::size_t>(r)].data(), sizeof card);
    if (card.code != CudaApi::kSuccess) {
      cuda.last_error();
      await_others_before_throw(comm);
      fail<CommError>("rank {} cannot use its GPU: {} (CUDA error {})", r,
                      cuda.error_text(card.code), card.code);
    }
    const auto [owner, first] = owners.emplace(card.uuid, r);
    if (!first) {
      return fmt::format(
          "ranks {} and {} have the same GPU, and NCCL takes one rank a GPU",
          owner->second, r);
    }
  }
  return "";
}

}  // namespace

void check_device_vector(const at::Tensor& vector,
                         const ReducerOptions& options) {
  if (!vector.device().is_cuda() || vector.scalar_type() != at::kFloat ||
      vector.dim() != 1 || !vector.is_contiguous()) {
    fail<InternalError>("reducer: the vector must be contiguous CUDA fp32 [k]");
  }
  std::vector<Bucket> buckets = options.buckets;
  std::ranges::sort(buckets, {}, &Bucket::offset);
  std::int64_t at = 0;
  for (const Bucket& b : buckets) {
    THINWIRE_ASSERT(b.offset == at && b.count > 0, "bucket [{}, +{}) after {}",
                    b.offset, b.count, at);
    at += b.count;
  }
  THINWIRE_ASSERT(at == vector.numel(), "buckets of {} numbers, vector of {}",
                  at, vector.numel());
}

DeviceChoice choose_device_exchange(CudaApi& cuda, Communicator& comm,
                                    int device, std::string_view wanted,
                                    const ReducerOptions& options) {
  if (wanted == "mpi") {
    return {false, "through pinned host memory: comm.backend is mpi"};
  }
  if (wanted != "auto" && wanted != "nccl") {
    fail<UsageError>(
        "comm.backend: '{}' exchanges nothing between GPUs; choose one of: "
        "auto, mpi, nccl",
        wanted);
  }
  const std::string why = obstacle(cuda, comm, device, options);
  if (why.empty()) {
    return {true, fmt::format("by NCCL, {} GPU{}", comm.size(),
                              comm.size() == 1 ? "" : "s")};
  }
  if (wanted == "nccl") {
    await_others_before_throw(comm);
    fail<UsageError>(
        "comm.backend: nccl cannot be: {} (set comm.backend to mpi to exchange "
        "through pinned host memory)",
        why);
  }
  return {false, "through pinned host memory: " + why};
}

std::unique_ptr<Reducer> make_device_reducer(
    CudaApi& cuda, NcclApi& nccl, Communicator& comm, at::Tensor& vector,
    ReducerOptions options, std::string_view wanted, NcclOptions nccl_options) {
  const DeviceChoice choice = choose_device_exchange(
      cuda, comm, vector.device().index(), wanted, options);
  if (comm.rank() == 0) spdlog::info("comm: exchange {}", choice.why);
  if (!choice.nccl) {
    return make_staged_reducer(cuda, comm, vector, std::move(options));
  }
  return make_nccl_reducer(cuda, nccl, comm, vector, std::move(options),
                           std::move(nccl_options));
}

}  // namespace thinwire
