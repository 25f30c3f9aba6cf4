// NCCL over the fake GPUs of comm/fake_gpu.h.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "comm/fake_gpu.h"

namespace thinwire::fake {

class Nccl : public NcclApi {
 public:
  explicit Nccl(Gpu& gpu) : g(gpu) {}
  int version(int& version) noexcept override {
    version = 22809;
    return g.call("ncclGetVersion");
  }
  int unique_id(NcclId& out) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("ncclGetUniqueId")) return code;
    const std::lock_guard wires(g.wires_.mutex);
    out.fill(static_cast<std::byte>(++g.wires_.ids));
    return kSuccess;
  }
  int init(NcclHandle& out, int ranks, const NcclId& id,
           int rank) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("ncclCommInitRankConfig")) return code;
    const std::lock_guard wires(g.wires_.mutex);
    auto& clique = g.wires_.cliques[id];
    clique.ranks = ranks;
    ++clique.joined;
    const auto name = g.next_++;
    g.comms_[name] = {&clique, rank, g.init_polls};
    out = Gpu::handle<NcclHandle>(name);
    return kInProgress;
  }
  int async_error(NcclHandle comm, int& state) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("ncclCommGetAsyncError")) return code;
    g.move();
    Gpu::Comm& c = g.comm(comm);
    const std::lock_guard wires(g.wires_.mutex);
    if (c.error == 0 && c.clique->broken && g.wires_.hears_aborts) {
      c.error = kRemoteError;
    }
    const bool waits = c.finalizing ? c.clique->finalized < c.clique->ranks
                                    : c.clique->joined < c.clique->ranks;
    if (c.error != 0) {
      c.pending = 0;
    } else if (c.pending > 0 && !waits) {
      --c.pending;
    }
    state = c.error != 0 ? c.error : c.pending != 0 ? kInProgress : kSuccess;
    return kSuccess;
  }
  int all_reduce(void* inout, std::size_t count, Element element, ReduceOp op,
                 NcclHandle comm, CudaStreamHandle stream) noexcept override {
    return collective("ncclAllReduce", inout, count, comm, stream,
                      [=](std::vector<std::byte*>& data) {
                        std::vector<std::byte> sum(
                            data[0], data[0] + count * element_bytes(element));
                        for (std::size_t r = 1; r < data.size(); ++r) {
                          combine(op, element, sum.data(), data[r], sum.data(),
                                  count);
                        }
                        for (std::byte* each : data) {
                          std::memcpy(each, sum.data(), sum.size());
                        }
                      });
  }
  int broadcast(void* inout, std::size_t bytes, int root, NcclHandle comm,
                CudaStreamHandle stream) noexcept override {
    return collective("ncclBroadcast", inout, bytes, comm, stream,
                      [=](std::vector<std::byte*>& data) {
                        const auto from = static_cast<std::size_t>(root);
                        for (std::byte* each : data) {
                          std::memmove(each, data[from], bytes);
                        }
                      });
  }
  int finalize(NcclHandle comm) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("ncclCommFinalize")) return code;
    Gpu::Comm& c = g.comm(comm);
    if (c.pending != 0) g.misuse.push_back("finalize while in progress");
    c.finalizing = true;
    c.pending = 2;
    const std::lock_guard wires(g.wires_.mutex);
    ++c.clique->finalized;
    return kInProgress;
  }
  int destroy(NcclHandle comm) noexcept override {
    const std::lock_guard lock(g.mutex);
    Gpu::Comm& c = g.comm(comm);
    if (!c.finalizing || c.pending != 0) {
      g.misuse.push_back("destroy before the end of finalize");
    }
    g.comms_.erase(Gpu::key(comm));
    return g.enter("ncclCommDestroy");
  }
  int abort(NcclHandle comm) noexcept override {
    if (g.while_aborting) g.while_aborting();
    const std::lock_guard lock(g.mutex);
    Gpu::Comm& c = g.comm(comm);
    {
      const std::lock_guard wires(g.wires_.mutex);
      c.clique->broken = true;
    }
    // Its kernels end at once, and leave rubbish behind.
    g.aborted_.push_back(Gpu::key(comm));
    g.comms_.erase(Gpu::key(comm));
    return g.enter("ncclCommAbort");
  }
  const char* error_text(int code) noexcept override {
    return code == kSystemError          ? "unhandled system error"
           : code == kRemoteError        ? "remote process exited"
           : code == kInProgress         ? "in progress"
           : code == kUnhandledCudaError ? "unhandled cuda error"
                                         : "another error";
  }
  const char* last_text(NcclHandle) noexcept override { return ""; }

 private:
  template <class Combine>
  int collective(const char* what, void* inout, std::size_t count,
                 NcclHandle comm, CudaStreamHandle stream,
                 Combine combine_all) {
    return g.enqueue(
        what, Gpu::name(stream) + " " + std::to_string(count), stream,
        [&] {
          Gpu::Comm& c = g.comm(comm);
          if (c.pending != 0) {
            g.misuse.push_back("a collective while in progress");
          }
          c.pending = g.enqueue_polls;
          const std::int64_t number = ++c.collectives;
          const bool fails = number == g.fails_asynchronously_at;
          if (fails) c.error = kRemoteError;
          return [=, this, handle = Gpu::key(comm), rank = c.rank,
                  clique = c.clique, arrived = false]() mutable {
            if (fails) return g.aborted(handle);
            return g.run(handle, *clique, number, rank,
                         static_cast<std::byte*>(inout), count, arrived,
                         combine_all);
          };
        },
        g.enqueue_polls > 0 ? kInProgress : kSuccess);
  }
  Gpu& g;
};

}  // namespace thinwire::fake
