#include "comm/nccl.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <future>
#include <map>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

// A record of the host exchanges begins with one of these.
constexpr char kData = '=';
constexpr char kLost = '!';  // a rank that gives up says why

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string host_name() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return name;
}

std::vector<std::string> gather_texts(Communicator& host, std::string_view text,
                                      std::string_view tag,
                                      double timeout = 0) {
  std::vector<std::string> all;
  for (const auto& bytes : host.all_gather_v(
           bytes_of(text), {.tag = tag, .timeout_seconds = timeout})) {
    all.push_back(text_of(bytes));
  }
  return all;
}

// One after the other; empty if there is none.
std::string join_errors(const std::vector<std::string>& errors) {
  std::string joined;
  for (const std::string& error : errors) {
    if (!error.empty()) joined += (joined.empty() ? "" : "; ") + error;
  }
  return joined;
}

std::string describe(const NcclWork& work) {
  std::string text = fmt::format("nccl {} '{}'", work.call, work.tag);
  if (work.bucket >= 0) text += fmt::format(" bucket {}", work.bucket);
  if (work.sequence >= 0) text += fmt::format(" of exchange {}", work.sequence);
  return text;
}

}  // namespace

NcclGroup::NcclGroup(CudaApi& cuda, NcclApi& nccl, Communicator& host,
                     int device, NcclOptions options)
    : cuda_(cuda),
      nccl_(nccl),
      device_(device),
      options_(std::move(options)),
      parent_(host),
      host_(host.split(0, host.rank(), {.tag = "nccl"})),
      notices_(host_->open_transport({.tag = "nccl"})) {
  prepare();
  connect();
}

NcclGroup::~NcclGroup() {
  const NcclHandle comm = comm_.load();
  if (comm == nullptr) return;
  if (cancelled_ || std::uncaught_exceptions() > exceptions_) {
    abort();
    tell(fmt::format("rank {} gave nccl up", rank()));
    return;
  }
  int state = nccl_.finalize(comm);
  if (state == NcclApi::kSuccess || state == NcclApi::kInProgress) {
    poll_until(deadline_after(options_.grace_seconds), [&] {
      if (const int code = nccl_.async_error(comm, state); code != 0) {
        state = code;
      }
      return state != NcclApi::kInProgress;
    });
  }
  if (state == NcclApi::kSuccess) {
    comm_ = nullptr;
    state = nccl_.destroy(comm);
    if (state == NcclApi::kSuccess) return;
    spdlog::warn("ncclCommDestroy: {}", nccl_.error_text(state));
  } else {
    spdlog::warn("ncclCommFinalize: {}{}", nccl_.error_text(state), abort());
  }
}

// What each rank needs for itself. All look at all results, so that none waits
// for one that has failed.
void NcclGroup::prepare() {
  GpuIdentity gpu;
  std::string record(1 + sizeof gpu.uuid, kData);
  try {
    check_cuda(cuda_, cuda_.set_device(device_), "cudaSetDevice");
    check_cuda(cuda_, cuda_.identify(device_, gpu), "cudaGetDeviceProperties");
    stream_ = CudaStream(cuda_);
    std::memcpy(&record[1], gpu.uuid.data(), sizeof gpu.uuid);
  } catch (const CommError& error) {
    record = fmt::format("rank {}, GPU {} of host {}: {}", rank(), device_,
                         host_name(), error.what());
  }
  auto all = gather_texts(*host_, record, "nccl GPUs");
  std::map<std::string, int> owners;
  std::string shared;
  for (int r = 0; r < size(); ++r) {
    std::string& theirs = all[static_cast<std::size_t>(r)];
    if (theirs.front() != kData) continue;
    const auto [owner, first] = owners.emplace(theirs, r);
    if (!first && shared.empty()) {
      shared = fmt::format("ranks {} and {}", owner->second, r);
    }
    theirs.clear();
  }
  const std::string errors = join_errors(all);
  if (!errors.empty() || !shared.empty()) await_others_before_throw(*host_);
  if (!errors.empty()) {
    fail<CommError>("nccl: no use of the GPU: {}", errors);
  }
  if (!shared.empty()) {
    fail<UsageError>(
        "nccl: {} have the same GPU, and NCCL takes one rank a GPU: start one "
        "rank a GPU, or set comm.backend to mpi",
        shared);
  }
}

void NcclGroup::connect() {
  constexpr NcclWork kWork{.call = "init", .tag = "communicator"};
  constexpr const char* kInit = "ncclCommInitRankConfig";
  NcclId id{};
  std::string text;
  if (rank() == 0) {
    const int code = nccl_.unique_id(id);
    text = code == NcclApi::kSuccess ? text_of(id)
                                     : cause_of("ncclGetUniqueId", code);
  }
  text = text_of(host_->broadcast_bytes(bytes_of(text), 0, {.tag = "nccl id"}));
  if (text.size() != id.size()) {
    await_others_before_throw(*host_);
    fail<CommError>("nccl: rank 0: {}", text);
  }
  std::memcpy(id.data(), text.data(), id.size());

  // An error of the call itself is known at once, and must not leave the others
  // waiting for this rank.
  int code = NcclApi::kSuccess;
  share_error([&] {
    check(cuda_.set_device(device_), "cudaSetDevice", kWork);
    NcclHandle comm = nullptr;
    code = nccl_.init(comm, size(), id, rank());
    comm_ = comm;
    if (code != NcclApi::kInProgress) settle(code, kInit, kWork);
  });
  share_error([&] { settle(code, kInit, kWork); });
  connected_ = true;
}

// All ranks throw when `body` throws on one, saying why.
template <class Body>
void NcclGroup::share_error(Body body) {
  std::string error;
  try {
    body();
  } catch (const CommError& e) {
    error = e.what();
  }
  // The others may need their whole timeout to see that this one is not coming.
  const double timeout = timeout_seconds() + 2 * options_.grace_seconds;
  std::vector<std::string> errors;
  try {
    errors = gather_texts(*host_, error, "nccl init", timeout);
  } catch (const CommError& e) {
    errors = {error, e.what()};
  }
  const std::string joined = join_errors(errors);
  if (joined.empty()) return;
  const std::string aborted = abort();
  await_others_before_throw(*host_);
  throw CommError(joined + aborted);
}

std::vector<std::string> NcclGroup::gather(std::string_view mine,
                                           const NcclWork& work) {
  live(work);
  std::vector<std::string> all;
  try {
    all = gather_texts(*host_, kData + std::string(mine), work.tag);
  } catch (const CommError& error) {
    raise(work, error.what());
  }
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].front() != kData) {
      raise(work, fmt::format("rank {}: {}", r, all[r].substr(1)));
    }
    all[r].erase(0, 1);
  }
  return all;
}

void NcclGroup::agree(std::string_view value, const NcclWork& work) {
  if (size() == 1) return;
  const auto all = gather(value, work);
  if (std::ranges::count(all, value) == size()) return;
  try {
    thinwire::agree(*host_, work.tag, value);
  } catch (const CommError& error) {
    raise(work, error.what());
  }
}

void NcclGroup::all_reduce(void* data, std::int64_t count, Element element,
                           ReduceOp op, const NcclWork& work) {
  const NcclHandle comm = live(work);
  check(cuda_.set_device(device_), "cudaSetDevice", work);
  settle(nccl_.all_reduce(data, static_cast<std::size_t>(count), element, op,
                          comm, stream_.get()),
         "ncclAllReduce", work);
}

void NcclGroup::broadcast(void* data, std::int64_t bytes, int root,
                          const NcclWork& work) {
  const NcclHandle comm = live(work);
  check(cuda_.set_device(device_), "cudaSetDevice", work);
  settle(nccl_.broadcast(data, static_cast<std::size_t>(bytes), root, comm,
                         stream_.get()),
         "ncclBroadcast", work);
}

void NcclGroup::wait(const CudaEvent& event, const NcclWork& work) {
  live(work);
  const bool done = poll_until(deadline_after(timeout_seconds()), [&] {
    const int code = cuda_.event_query(event.get());
    if (code == CudaApi::kSuccess) return true;
    if (code != CudaApi::kNotReady) check(code, "cudaEventQuery", work);
    settled("ncclCommGetAsyncError", work);
    return false;
  });
  if (!done) raise_timeout(work);
  // A kernel that NCCL ended because of an error has finished as well.
  settled("ncclCommGetAsyncError", work);
}

// The answer of a call, or what becomes of it.
void NcclGroup::settle(int code, std::string_view call, const NcclWork& work) {
  if (code == NcclApi::kSuccess) return;
  if (code != NcclApi::kInProgress) raise(work, cause_of(call, code));
  const bool done = poll_until(deadline_after(timeout_seconds()),
                               [&] { return settled(call, work); });
  if (!done) raise_timeout(work);
}

bool NcclGroup::settled(std::string_view call, const NcclWork& work) {
  if (cancelled_) raise(work, "given up by this rank");
  look_for_failures(work);
  int state = NcclApi::kSuccess;
  const int code = nccl_.async_error(live(work), state);
  if (code != NcclApi::kSuccess) {
    raise(work, cause_of("ncclCommGetAsyncError", code));
  }
  if (state == NcclApi::kInProgress) return false;
  if (state != NcclApi::kSuccess) raise(work, cause_of(call, state));
  return true;
}

// One rank after the other, since each may cost a system call.
void NcclGroup::look_for_failures(const NcclWork& work) {
  if (size() == 1) return;
  looked_at_ = (looked_at_ + 1) % size();
  if (looked_at_ == rank()) looked_at_ = (looked_at_ + 1) % size();
  std::string why;
  if (notices_->failed(looked_at_, SteadyClock::now(), why)) {
    raise(work, fmt::format("waited for rank {}, but {}", looked_at_, why));
  }
}

// Ranks that wait in a call on the host, here or elsewhere, and those in NCCL.
void NcclGroup::tell(const std::string& why) noexcept {
  notices_->stop(why);
  host_->stop(why);
  parent_.stop(why);
}

void NcclGroup::check(int cuda_code, std::string_view call,
                      const NcclWork& work) {
  if (cuda_code == CudaApi::kSuccess) return;
  cuda_.last_error();
  raise(work, fmt::format("{}: {} (CUDA error {})", call,
                          cuda_.error_text(cuda_code), cuda_code));
}

NcclHandle NcclGroup::live(const NcclWork& work) {
  const NcclHandle comm = comm_.load();
  if (comm == nullptr) {
    fail<CommError>("{}: the communicator has failed before: {}", name_of(work),
                    failure_);
  }
  return comm;
}

std::string NcclGroup::name_of(const NcclWork& work) const {
  return fmt::format("{} on rank {} of {} ({}, GPU {})", describe(work), rank(),
                     size(), host_name(), device_);
}

std::string NcclGroup::cause_of(std::string_view call, int nccl_code) {
  std::string cause = fmt::format("{}: {}", call, nccl_.error_text(nccl_code));
  if (nccl_code == NcclApi::kUnhandledCudaError) {
    const int code = cuda_.last_error();
    if (code != CudaApi::kSuccess) {
      cause +=
          fmt::format(", {} (CUDA error {})", cuda_.error_text(code), code);
    }
  }
  const char* last = nccl_.last_text(comm_.load());
  if (last != nullptr && *last != '\0') cause += fmt::format(" ({})", last);
  return cause;
}

void NcclGroup::raise(const NcclWork& work, const std::string& cause) {
  std::string text = fmt::format("{}: {}", name_of(work), cause);
  if (connected_) tell(text);
  text += abort();
  if (failure_.empty()) failure_ = text;
  throw CommError(text);
}

// NCCL does not say for whom it waited. The ranks ask each other over the host:
// who is gone does not answer, who is elsewhere says where.
void NcclGroup::raise_timeout(const NcclWork& work) {
  std::string cause =
      fmt::format("timed out after {:.1f} s", timeout_seconds());
  cause += abort();
  if (connected_ && size() > 1) {
    const std::string mine = kLost + describe(work) + ": " + cause;
    try {
      const auto all =
          gather_texts(*host_, mine, work.tag, options_.grace_seconds);
      bool alike = true;
      for (std::size_t r = 0; r < all.size(); ++r) {
        if (all[r] == mine) continue;
        alike = false;
        cause +=
            fmt::format("; rank {} {}", r,
                        all[r].front() == kLost ? "gave up: " + all[r].substr(1)
                                                : "is elsewhere");
      }
      if (alike) cause += "; on the host all ranks answer, and wait alike";
    } catch (const CommError& error) {
      cause += fmt::format("; on the host: {}", error.what());
    }
  }
  raise(work, cause);
}

// Once, whoever comes first. On a thread of its own: NCCL waits for its kernels
// to see the flag, and the line that says what happened must not wait for ever.
std::string NcclGroup::abort() noexcept {
  const NcclHandle comm = comm_.exchange(nullptr);
  if (comm == nullptr) return "";
  try {
    std::packaged_task<int()> task(
        [nccl = &nccl_, comm] { return nccl->abort(comm); });
    std::future<int> result = task.get_future();
    std::thread(std::move(task)).detach();
    if (result.wait_for(std::chrono::duration<double>(
            options_.grace_seconds)) != std::future_status::ready) {
      return fmt::format("; ncclCommAbort did not return within {} s",
                         options_.grace_seconds);
    }
    const int code = result.get();
    if (code == NcclApi::kSuccess || code == NcclApi::kInProgress) return "";
    return fmt::format("; ncclCommAbort: {}", nccl_.error_text(code));
  } catch (const std::exception& error) {  // no thread to be had
    return fmt::format("; not aborted: {}", error.what());
  }
}

}  // namespace thinwire
