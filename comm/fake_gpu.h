// GPUs for tests: the interfaces of comm/cuda_api.h and comm/nccl_api.h over
// host memory. Streams are queues that move only when somebody polls, side
// streams before the compute stream and as far as they can, so that an order
// that no event enforces goes wrong. Collectives wait for all ranks. Any call
// can be made to fail, and what a correct caller never does is noted.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "comm/combine.h"
#include "comm/nccl_api.h"

namespace thinwire::fake {

inline constexpr int kSystemError = 2;   // of NCCL
inline constexpr int kRemoteError = 6;   // of NCCL
inline constexpr int kBadAddress = 700;  // of CUDA

// What connects the GPUs of all ranks.
struct Wires {
  struct Operation {
    int arrived = 0;
    bool done = false;
    std::size_t count = 0;
    std::vector<std::byte*> data;  // by rank
  };
  struct Clique {
    int ranks = 0, joined = 0, finalized = 0;
    bool broken = false;
    std::map<std::int64_t, Operation> operations;
  };

  std::mutex mutex;
  std::map<NcclId, Clique> cliques;
  int ids = 0;
  bool stuck = false;        // collectives never end
  bool hears_aborts = true;  // an abort is an error of the other ranks
};

class Gpu {
 public:
  explicit Gpu(Wires& wires, int number = 0) : number(number), wires_(wires) {}

  // The nth call of this name from now on, counted from 1, returns code.
  void fail(const std::string& call, int nth, int code) {
    const std::lock_guard lock(mutex);
    faults_[call] = {calls[call] + nth, code};
  }
  // Puts a kernel on the compute stream.
  void compute(std::function<void()> kernel) {
    const std::lock_guard lock(mutex);
    streams_[kCompute].push_back([kernel = std::move(kernel)] {
      kernel();
      return true;
    });
  }
  // A kernel that never ends.
  void block() {
    const std::lock_guard lock(mutex);
    streams_[kCompute].push_back([] { return false; });
  }
  // The calls so far, those that only poll left out.
  std::vector<std::string> history() {
    const std::lock_guard lock(mutex);
    return log_;
  }
  // Blocks until the nth call of this name has been made.
  void await(const std::string& call, int nth) {
    std::unique_lock lock(mutex);
    called_.wait(lock, [&] { return calls[call] >= nth; });
  }
  // Streams, events, pinned blocks and communicators not given back.
  int alive() {
    const std::lock_guard lock(mutex);
    return static_cast<int>(streams_.size()) - 1 +
           static_cast<int>(events_.size() + pinned_.size() + comms_.size());
  }
  int count(const std::string& call) {
    const std::lock_guard lock(mutex);
    return calls[call];
  }

  const int number;  // GPUs of equal number are the same
  std::mutex mutex;
  std::map<std::string, int> calls;  // by name
  std::vector<std::string> misuse;   // what no correct caller does
  int init_polls = 2;                // until a communicator is there; -1: never
  int enqueue_polls = 1;             // until a collective is accepted
  int fails_asynchronously_at = 0;   // collective of this number, from 1
  std::function<void()> while_aborting;

 private:
  friend class Cuda;
  friend class Nccl;
  using Key = std::uintptr_t;
  using Queue = std::deque<std::function<bool()>>;
  static constexpr Key kCompute = 1;
  struct Event {
    std::int64_t recorded = 0, reached = 0;
  };
  struct Comm {
    Wires::Clique* clique = nullptr;
    int rank = 0;
    int pending = 0;  // polls until the call under way is over
    bool finalizing = false;
    int error = 0;
    std::int64_t collectives = 0;
  };

  template <class Handle>
  static Handle handle(Key key) {
    return reinterpret_cast<Handle>(key);
  }
  template <class Handle>
  static Key key(Handle handle) {
    return reinterpret_cast<Key>(handle);
  }
  static std::string name(CudaStreamHandle stream) {
    return key(stream) == kCompute ? " compute" : " side";
  }
  static std::string name(CudaEventHandle event) {
    return " e" + std::to_string(key(event));
  }

  // The code that this call is to fail with. The mutex is held.
  int enter(const std::string& call, const std::string& arguments = "") {
    const int nth = ++calls[call];
    if (call != "cudaEventQuery" && call != "ncclCommGetAsyncError") {
      log_.push_back(call + arguments);
    }
    called_.notify_all();
    const auto fault = faults_.find(call);
    if (fault == faults_.end() || fault->second.nth != nth) return 0;
    if (call.starts_with("cuda")) last_error_ = fault->second.code;
    return fault->second.code;
  }
  int call(const std::string& call) {
    const std::lock_guard lock(mutex);
    return enter(call);
  }
  template <class Handle, class Value>
  int create(const std::string& call, Handle& out,
             std::map<Key, Value>& where) {
    const std::lock_guard lock(mutex);
    if (const int code = enter(call)) return code;
    out = handle<Handle>(next_);
    where[next_++];
    return 0;
  }
  template <class Handle, class Value>
  int destroy(const std::string& call, Handle what,
              std::map<Key, Value>& where) {
    const std::lock_guard lock(mutex);
    if (where.erase(key(what)) == 0) misuse.push_back(call + " of none");
    return enter(call);
  }
  template <class Make>
  int enqueue(const std::string& call, const std::string& arguments,
              CudaStreamHandle stream, Make make, int answer = 0) {
    const std::lock_guard lock(mutex);
    if (const int code = enter(call, arguments)) return code;
    streams_.at(key(stream)).push_back(make());
    return answer;
  }
  Comm& comm(NcclHandle handle) {
    const auto found = comms_.find(key(handle));
    if (found != comms_.end()) return found->second;
    misuse.push_back("use of a communicator that is gone");
    static Wires::Clique none;
    static Comm gone{.clique = &none};
    return gone;
  }

  void move() {
    for (bool moved = true; moved;) {
      moved = false;
      for (auto s = streams_.rbegin(); s != streams_.rend() && !moved; ++s) {
        if (s->second.empty() || !s->second.front()()) continue;
        s->second.pop_front();
        moved = true;
      }
    }
  }

  bool aborted(Key comm) const {
    return std::ranges::count(aborted_, comm) > 0;
  }
  // One rank's part of a collective; true when it is over.
  template <class Combine>
  bool run(Key handle, Wires::Clique& clique, std::int64_t number, int rank,
           std::byte* data, std::size_t count, bool& arrived,
           const Combine& combine_all) {
    if (aborted(handle)) return true;
    const std::lock_guard lock(wires_.mutex);
    Wires::Operation& operation = clique.operations[number];
    operation.data.resize(static_cast<std::size_t>(clique.ranks));
    if (!arrived) {
      arrived = true;
      if (operation.arrived++ > 0 && operation.count != count) {
        misuse.push_back("ranks with different counts in one collective");
      }
      operation.count = count;
      operation.data[static_cast<std::size_t>(rank)] = data;
      if (operation.arrived == clique.ranks && !wires_.stuck &&
          !clique.broken) {
        combine_all(operation.data);
        operation.done = true;
      }
    }
    return operation.done;
  }

  struct Fault {
    int nth, code;
  };

  Wires& wires_;
  std::condition_variable called_;
  std::map<std::string, Fault> faults_;
  std::vector<std::string> log_;
  int last_error_ = 0;
  Key next_ = 2;
  std::map<Key, Queue> streams_{{kCompute, {}}};
  std::map<Key, std::shared_ptr<Event>> events_;
  std::map<void*, std::unique_ptr<std::byte[]>> pinned_;
  std::map<Key, Comm> comms_;
  std::vector<Key> aborted_;
};

class Cuda : public CudaApi {
 public:
  explicit Cuda(Gpu& gpu) : g(gpu) {}
  int runtime_version(int& version) noexcept override {
    version = 13000;
    return g.call("cudaRuntimeGetVersion");
  }
  int device_count(int& count) noexcept override {
    count = 1;
    return g.call("cudaGetDeviceCount");
  }
  int identify(int, GpuIdentity& out) override {
    out.uuid[0] = static_cast<std::byte>(g.number + 1);
    out.name = "fake";
    return g.call("cudaGetDeviceProperties");
  }
  int set_device(int) noexcept override { return g.call("cudaSetDevice"); }
  CudaStreamHandle compute_stream(int) noexcept override {
    return Gpu::handle<CudaStreamHandle>(Gpu::kCompute);
  }
  int stream_create(CudaStreamHandle& out) noexcept override {
    return g.create("cudaStreamCreate", out, g.streams_);
  }
  int stream_destroy(CudaStreamHandle stream) noexcept override {
    return g.destroy("cudaStreamDestroy", stream, g.streams_);
  }
  int stream_wait_event(CudaStreamHandle stream,
                        CudaEventHandle event) noexcept override {
    return g.enqueue("cudaStreamWaitEvent",
                     Gpu::name(stream) + Gpu::name(event), stream, [&] {
                       const auto state = g.events_.at(Gpu::key(event));
                       return [state, due = state->recorded] {
                         return state->reached >= due;
                       };
                     });
  }
  int launch_host_function(CudaStreamHandle stream, void (*function)(void*),
                           void* data) noexcept override {
    return g.enqueue("cudaLaunchHostFunc", Gpu::name(stream), stream, [&] {
      return [function, data] {
        function(data);
        return true;
      };
    });
  }
  int event_create(CudaEventHandle& out) noexcept override {
    const int code = g.create("cudaEventCreate", out, g.events_);
    if (code == 0) g.events_[Gpu::key(out)] = std::make_shared<Gpu::Event>();
    return code;
  }
  int event_destroy(CudaEventHandle event) noexcept override {
    return g.destroy("cudaEventDestroy", event, g.events_);
  }
  int event_record(CudaEventHandle event,
                   CudaStreamHandle stream) noexcept override {
    return g.enqueue("cudaEventRecord", Gpu::name(event) + Gpu::name(stream),
                     stream, [&] {
                       const auto state = g.events_.at(Gpu::key(event));
                       return [state, mark = ++state->recorded] {
                         state->reached = std::max(state->reached, mark);
                         return true;
                       };
                     });
  }
  int event_query(CudaEventHandle event) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("cudaEventQuery")) return code;
    g.move();
    const auto& state = g.events_.at(Gpu::key(event));
    return state->reached >= state->recorded ? kSuccess : kNotReady;
  }
  int memcpy_async(void* to, const void* from, std::size_t bytes,
                   CudaStreamHandle stream) noexcept override {
    return g.enqueue("cudaMemcpyAsync", Gpu::name(stream), stream, [&] {
      return [=] {
        std::memcpy(to, from, bytes);
        return true;
      };
    });
  }
  int host_alloc(void*& out, std::size_t bytes) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (const int code = g.enter("cudaHostAlloc")) return code;
    auto block = std::make_unique<std::byte[]>(bytes);
    out = block.get();
    g.pinned_[out] = std::move(block);
    return 0;
  }
  int host_free(void* data) noexcept override {
    const std::lock_guard lock(g.mutex);
    if (g.pinned_.erase(data) == 0) g.misuse.push_back("free of no block");
    return g.enter("cudaFreeHost");
  }
  int last_error() noexcept override {
    const std::lock_guard lock(g.mutex);
    return std::exchange(g.last_error_, 0);
  }
  const char* error_text(int code) noexcept override {
    return code == kBadAddress ? "an illegal memory access" : "another error";
  }

 private:
  Gpu& g;
};

}  // namespace thinwire::fake
