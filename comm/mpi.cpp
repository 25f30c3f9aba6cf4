#include "comm/mpi.h"

#include <fmt/format.h>
#include <mpi.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/handle.h"
#include "base/hash.h"
#include "comm/backoff.h"
#include "comm/mpi_common.h"
#include "comm/transport.h"
#include "comm/watch.h"

namespace thinwire {
namespace {

using std::chrono::microseconds;

using mpi::check;
using mpi::error_text;

struct CommTraits {
  using type = MPI_Comm;
  static type null() noexcept { return MPI_COMM_NULL; }
  static void release(type comm) noexcept {
    int finalized = 0;
    MPI_Finalized(&finalized);
    if (finalized == 0) MPI_Comm_free(&comm);
  }
};
using CommHandle = UniqueHandle<CommTraits>;

CommHandle duplicate(MPI_Comm comm) {
  MPI_Comm copy = MPI_COMM_NULL;
  check(MPI_Comm_dup(comm, &copy), "MPI_Comm_dup");
  CommHandle handle(copy);
  check(MPI_Comm_set_errhandler(copy, MPI_ERRORS_RETURN),
        "MPI_Comm_set_errhandler");
  return handle;
}

// Where a rank lives: ranks of one place share its cores.
std::uint64_t my_place() {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  struct stat ns {};
  stat("/proc/self/ns/pid", &ns);
  return hash64(fmt::format("{} {}", host.data(), ns.st_ino));
}

// Of each rank of comm, its rank in MPI_COMM_WORLD.
std::vector<int> find_world_ranks(MPI_Comm comm, int size) {
  MPI_Group group = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
  check(MPI_Comm_group(comm, &group), "MPI_Comm_group");
  check(MPI_Comm_group(MPI_COMM_WORLD, &world), "MPI_Comm_group");
  std::vector<int> own(static_cast<std::size_t>(size)), theirs(own.size());
  std::iota(own.begin(), own.end(), 0);
  check(
      MPI_Group_translate_ranks(group, size, own.data(), world, theirs.data()),
      "MPI_Group_translate_ranks");
  MPI_Group_free(&group);
  MPI_Group_free(&world);
  return theirs;
}

// The host of each rank of comm, by its lowest rank: where ranks share memory.
std::vector<int> find_hosts(MPI_Comm comm, int rank, int size) {
  MPI_Comm near = MPI_COMM_NULL;
  check(MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL,
                            &near),
        "MPI_Comm_split_type");
  const CommHandle handle(near);
  int lowest = rank;
  check(MPI_Bcast(&lowest, 1, MPI_INT, 0, near), "MPI_Bcast");
  std::vector<int> hosts(static_cast<std::size_t>(size));
  check(MPI_Allgather(&lowest, 1, MPI_INT, hosts.data(), 1, MPI_INT, comm),
        "MPI_Allgather");
  return hosts;
}

MPI_Datatype datatype(Element element) {
  switch (element) {
    case Element::kFloat32:
      return MPI_FLOAT;
    case Element::kFloat64:
      return MPI_DOUBLE;
    case Element::kInt64:
      break;
  }
  return MPI_INT64_T;
}

MPI_Op operation(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return MPI_SUM;
    case ReduceOp::kMax:
      return MPI_MAX;
    case ReduceOp::kMin:
      break;
  }
  return MPI_MIN;
}

class MpiTransport : public Transport {
 public:
  explicit MpiTransport(MPI_Comm parent)
      : limit_(std::in_place, "making a communicator", kStartSeconds),
        data_(duplicate(parent)),
        notices_(duplicate(parent)) {
    MPI_Comm_rank(data_.get(), &rank_);
    MPI_Comm_size(data_.get(), &size_);
    const std::uint64_t mine = my_place();
    std::vector<std::uint64_t> places(static_cast<std::size_t>(size_));
    check(MPI_Allgather(&mine, 1, MPI_UINT64_T, places.data(), 1, MPI_UINT64_T,
                        data_.get()),
          "MPI_Allgather");
    world_ranks_ = find_world_ranks(data_.get(), size_);
    hosts_ = find_hosts(data_.get(), rank_, size_);
    const auto neighbours = std::ranges::count(places, mine);
    cpu_set_t cpus;
    const bool known = sched_getaffinity(0, sizeof cpus, &cpus) == 0;
    crowded_ = !known || neighbours > CPU_COUNT(&cpus);
    limit_.reset();
  }

  // A failed communicator is left to the end of the process: freeing it could
  // wait for messages that never come.
  ~MpiTransport() override {
    if (!failed_) return;
    data_.detach();
    notices_.detach();
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string_view backend() const noexcept override { return "mpi"; }
  // Far below the limit of an int, so that a message which flows is soon done:
  // only a wait for one that does not may sleep.
  std::size_t max_message_bytes() const noexcept override { return 1 << 20; }

  bool crowded() const noexcept override { return crowded_; }
  const std::vector<int>& hosts() const noexcept override { return hosts_; }

  Ticket send(int to, MessageTag tag,
              std::span<const std::byte> data) override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Isend(data.data(), static_cast<int>(data.size()), MPI_BYTE, to,
                    static_cast<int>(tag), data_.get(), &request),
          "MPI_Isend");
    return {.handle = pack(request), .peer = to, .size = data.size()};
  }

  Ticket receive(int from, std::span<std::byte> data) override {
    return start_receive(from, MPI_ANY_TAG, data);
  }
  Ticket receive(int from, MessageTag tag, std::span<std::byte> data) override {
    return start_receive(from, static_cast<int>(tag), data);
  }

  MessageResult wait(Ticket& ticket,
                     SteadyClock::time_point deadline) override {
    MessageResult result;
    if (test(ticket, result)) return result;
    const auto begin = SteadyClock::now();
    for (Backoff backoff(crowded_);;) {
      if (test(ticket, result)) return result;
      if (!backoff.look()) continue;
      const auto now = SteadyClock::now();
      if (find_failure(ticket.peer, now, result.text)) {
        // What had arrived before the failure still counts.
        if (test(ticket, result)) return result;
        result.status = MessageResult::Status::kFailed;
        return result;
      }
      if (now >= deadline) {
        result.status = MessageResult::Status::kTimeout;
        return result;
      }
      backoff.rest(now - begin);
    }
  }

  bool poll(Ticket& ticket, MessageResult& result) override {
    return test(ticket, result);
  }
  bool failed(int peer, SteadyClock::time_point now,
              std::string& why) override {
    return find_failure(peer, now, why);
  }
  void rest(SteadyClock::duration waited) override {
    Backoff(crowded_).rest(waited);
  }
  bool stray(int from, MessageTag& tag) override {
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(from, MPI_ANY_TAG, data_.get(), &there, &status) !=
            MPI_SUCCESS ||
        there == 0) {
      return false;
    }
    tag = static_cast<MessageTag>(status.MPI_TAG);
    return true;
  }

  bool has_all_reduce() const noexcept override { return true; }
  Ticket start_all_reduce(std::span<std::byte> data, Element element,
                          ReduceOp op) override {
    MPI_Request request = MPI_REQUEST_NULL;
    check(
        MPI_Iallreduce(MPI_IN_PLACE, data.data(),
                       static_cast<int>(data.size() / element_bytes(element)),
                       datatype(element), operation(op), data_.get(), &request),
        "MPI_Iallreduce");
    return {.handle = pack(request), .size = data.size()};
  }

  // The buffer must not be written to later: a receive that no message has
  // matched ends at once, one in the middle of a message gets a moment.
  void abandon(Ticket& ticket) noexcept override {
    MPI_Request request = unpack(ticket.handle);
    if (request == MPI_REQUEST_NULL) return;
    failed_ = true;
    mpi::some_message_abandoned = true;
    if (ticket.receives) MPI_Cancel(&request);
    const auto end = SteadyClock::now() + std::chrono::milliseconds(100);
    for (int done = 0; done == 0 && SteadyClock::now() < end;) {
      if (MPI_Test(&request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
    }
    ticket.handle = pack(MPI_REQUEST_NULL);
  }

  std::string blame(int peer, bool odd) override {
    Watch* watch = Watch::current();
    if (watch == nullptr) return "";
    return odd ? watch->ask_odd(world_rank(peer))
               : watch->ask_stalled(world_rank(peer));
  }

  void stop(std::string_view why) noexcept override {
    failed_ = true;
    if (std::exchange(stopped_, true)) return;
    const Watch* watch = Watch::current();
    if (watch != nullptr && watch->failure() != nullptr) return;  // all know
    // Small enough to be sent eagerly; the text lives until the process ends,
    // since nobody can wait for these messages.
    auto* notice = new std::string(why.substr(0, kMaxNotice));
    for (int to = 0; to < size_; ++to) {
      if (to == rank_) continue;
      MPI_Request request = MPI_REQUEST_NULL;
      MPI_Isend(notice->data(), static_cast<int>(notice->size()), MPI_CHAR, to,
                0, notices_.get(), &request);
      if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
    }
  }

  std::unique_ptr<Transport> split(std::uint32_t, int color,
                                   std::span<const int> members) override {
    const auto place = std::ranges::find(members, rank_) - members.begin();
    const WatchLimit limit("MPI_Comm_split", kStartSeconds);
    MPI_Comm child = MPI_COMM_NULL;
    check(MPI_Comm_split(data_.get(), color & 0x7fffffff,
                         static_cast<int>(place), &child),
          "MPI_Comm_split");
    const CommHandle handle(child);
    return std::make_unique<MpiTransport>(child);
  }

 private:
  static constexpr std::size_t kMaxNotice = 400;

  static std::uintptr_t pack(MPI_Request request) {
    static_assert(sizeof(MPI_Request) <= sizeof(std::uintptr_t));
    std::uintptr_t handle = 0;
    std::memcpy(&handle, &request, sizeof request);
    return handle;
  }
  static MPI_Request unpack(std::uintptr_t handle) {
    MPI_Request request;
    std::memcpy(&request, &handle, sizeof request);
    return request;
  }

  Ticket start_receive(int from, int tag, std::span<std::byte> data) {
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Irecv(data.data(), static_cast<int>(data.size()), MPI_BYTE, from,
                    tag, data_.get(), &request),
          "MPI_Irecv");
    return {.handle = pack(request),
            .peer = from,
            .receives = true,
            .data = data.data(),
            .size = data.size()};
  }

  // True when the message is done or has failed.
  bool test(Ticket& ticket, MessageResult& result) {
    MPI_Request request = unpack(ticket.handle);
    MPI_Status status;
    int done = 0;
    const int code = MPI_Test(&request, &done, &status);
    int kind = MPI_SUCCESS;
    if (code != MPI_SUCCESS) MPI_Error_class(code, &kind);
    if (code != MPI_SUCCESS && kind != MPI_ERR_TRUNCATE) {
      ticket.handle = pack(request);
      result.status = MessageResult::Status::kFailed;
      result.text = error_text(code);
      return true;
    }
    if (code == MPI_SUCCESS && done == 0) return false;
    ticket.handle = pack(request);
    result.tag = 0;
    result.bytes = ticket.size;
    if (ticket.receives) {
      int count = 0;
      MPI_Get_count(&status, MPI_BYTE, &count);
      result.tag = static_cast<MessageTag>(status.MPI_TAG);
      result.bytes = static_cast<std::size_t>(count);
      // Too long: some implementations report the length that fitted.
      if (kind == MPI_ERR_TRUNCATE) {
        result.bytes = std::max(result.bytes, ticket.size + 1);
      }
    }
    return true;
  }

  // Whether waiting for peer (-1: any) is in vain, and why. What it has found
  // stays.
  bool find_failure(int peer, SteadyClock::time_point now, std::string& why) {
    if (Watch* watch = Watch::current(); watch != nullptr) {
      watch->status().waits_for(world_rank(peer));
      const std::string* text = watch->failure();
      if (text != nullptr && failure_.empty()) failure_ = *text;
    }
    if (failure_.empty() && now >= next_look_) {
      next_look_ = now + microseconds(1000);
      failure_ = read_notice();
    }
    why = failure_;
    return !failure_.empty();
  }

  int world_rank(int peer) const {
    return peer < 0 ? -1 : world_ranks_[static_cast<std::size_t>(peer)];
  }

  std::string read_notice() {
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, 0, notices_.get(), &there, &status) !=
            MPI_SUCCESS ||
        there == 0) {
      return "";
    }
    std::array<char, kMaxNotice> text{};
    int count = 0;
    MPI_Get_count(&status, MPI_CHAR, &count);
    MPI_Recv(text.data(), static_cast<int>(text.size()), MPI_CHAR,
             status.MPI_SOURCE, 0, notices_.get(), MPI_STATUS_IGNORE);
    stopped_ = true;  // the others have been told by that rank
    return fmt::format(
        "rank {} stopped: {}", status.MPI_SOURCE,
        std::string_view(text.data(), static_cast<std::size_t>(count)));
  }

  std::optional<WatchLimit> limit_;  // while this is being made
  CommHandle data_, notices_;
  int rank_ = 0, size_ = 1;
  std::vector<int> world_ranks_;
  std::vector<int> hosts_;
  bool crowded_ = false;  // more ranks than cores here
  bool failed_ = false, stopped_ = false;
  std::string failure_;  // why no wait can succeed any more
  SteadyClock::time_point next_look_{};
};

}  // namespace

std::unique_ptr<Transport> make_mpi_transport() {
  int initialized = 0, level = MPI_THREAD_SINGLE, found = 0;
  MPI_Initialized(&initialized);
  if (initialized == 0) {
    fail<UsageError>("backend 'mpi': MPI is not initialised (no MpiSession)");
  }
  MPI_Query_thread(&level);
  int* upper_bound = nullptr;
  MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &upper_bound, &found);
  if (level != MPI_THREAD_MULTIPLE || found == 0 ||
      *upper_bound < static_cast<int>(kMaxMessageTag)) {
    fail<CommError>("MPI: MPI_THREAD_MULTIPLE and tags up to {} are needed",
                    kMaxMessageTag);
  }
  return std::make_unique<MpiTransport>(MPI_COMM_WORLD);
}

}  // namespace thinwire
