#include "comm/threads.h"

#include <fmt/format.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

constexpr std::uintptr_t kAnyTag = ~std::uintptr_t{0};

// What the ranks of one communicator share. A message is copied into the
// receiver's queue, so sends never wait.
class Group {
 public:
  Group(int ranks, std::vector<int> hosts)
      : ranks_(ranks),
        hosts_(std::move(hosts)),
        arrivals_(static_cast<std::size_t>(ranks)),
        queues_(static_cast<std::size_t>(ranks * ranks)),
        arrived_(static_cast<std::size_t>(ranks)),
        left_(static_cast<std::size_t>(ranks)) {}

  int size() const noexcept { return ranks_; }
  const std::vector<int>& hosts() const noexcept { return hosts_; }
  // The rank that stopped first, or -1.
  int stopped_rank() const noexcept { return stopped_rank_; }

  void send(int from, int to, MessageTag tag, std::span<const std::byte> data) {
    const std::lock_guard lock(mutex_);
    queue(from, to).push_back({tag, {data.begin(), data.end()}});
    wake(to);
  }

  // The next message, of this tag or (kAnyTag) whatever its tag.
  bool take(int from, int to, std::uintptr_t tag, std::span<std::byte> into,
            MessageResult& result) {
    const std::lock_guard lock(mutex_);
    return take_locked(from, to, tag, into, result);
  }

  MessageResult receive(int from, int to, std::uintptr_t tag,
                        std::span<std::byte> into,
                        SteadyClock::time_point deadline) {
    std::unique_lock lock(mutex_);
    MessageResult result;
    bool taken = false;
    const bool due =
        arrived_[static_cast<std::size_t>(to)].wait_until(lock, deadline, [&] {
          taken = take_locked(from, to, tag, into, result);
          return taken || failed_locked(from, result.text);
        });
    if (!taken) {
      result.status = due ? MessageResult::Status::kFailed
                          : MessageResult::Status::kTimeout;
    }
    return result;
  }

  bool failed(int from, std::string& why) {
    const std::lock_guard lock(mutex_);
    return failed_locked(from, why);
  }

  bool oldest(int from, int to, MessageTag& tag) {
    const std::lock_guard lock(mutex_);
    const auto& waiting = queue(from, to);
    if (!waiting.empty()) tag = waiting.front().tag;
    return !waiting.empty();
  }

  // Events at a rank so far: arrivals, and others' ends.
  std::uint64_t arrivals(int rank) {
    const std::lock_guard lock(mutex_);
    return arrivals_[static_cast<std::size_t>(rank)];
  }
  void wait_for_arrival(int rank, std::uint64_t seen) {
    std::unique_lock lock(mutex_);
    const auto r = static_cast<std::size_t>(rank);
    arrived_[r].wait_for(lock, std::chrono::milliseconds(1),
                         [&] { return arrivals_[r] != seen; });
  }

  void stop(int rank, std::string_view why) noexcept {
    const std::lock_guard lock(mutex_);
    if (stopped_rank_ < 0) {
      stopped_rank_ = rank;
      stopped_why_ = why;
    }
    for (int to = 0; to < ranks_; ++to) wake(to);
  }

  void leave(int rank) noexcept {
    const std::lock_guard lock(mutex_);
    left_[static_cast<std::size_t>(rank)] = true;
    for (int to = 0; to < ranks_; ++to) wake(to);
  }

  // The first of the members makes the group, the last takes it off the
  // list.
  std::shared_ptr<Group> child(std::uint32_t call, int color,
                               std::span<const int> members) {
    const std::lock_guard lock(mutex_);
    const auto ranks = static_cast<int>(members.size());
    auto& entry = children_[{call, color}];
    if (!entry.group) {
      entry.group = std::make_shared<Group>(ranks, hosts_of(hosts_, members));
    }
    const auto group = entry.group;
    if (++entry.taken == ranks) children_.erase({call, color});
    return group;
  }

 private:
  struct Message {
    MessageTag tag;
    std::vector<std::byte> data;
  };
  struct Child {
    std::shared_ptr<Group> group;
    int taken = 0;
  };

  bool take_locked(int from, int to, std::uintptr_t tag,
                   std::span<std::byte> into, MessageResult& result) {
    auto& waiting = queue(from, to);
    const auto found = std::ranges::find_if(waiting, [&](const Message& m) {
      return tag == kAnyTag || m.tag == tag;
    });
    if (found == waiting.end()) return false;
    const std::size_t n = std::min(into.size(), found->data.size());
    if (n > 0) std::memcpy(into.data(), found->data.data(), n);
    result.tag = found->tag;
    result.bytes = found->data.size();
    waiting.erase(found);
    return true;
  }

  bool failed_locked(int from, std::string& why) {
    if (stopped_rank_ >= 0) {
      why = fmt::format("rank {} stopped: {}", stopped_rank_, stopped_why_);
      return true;
    }
    if (!left_[static_cast<std::size_t>(from)]) return false;
    why = fmt::format("rank {} has left", from);
    return true;
  }

  void wake(int rank) {
    ++arrivals_[static_cast<std::size_t>(rank)];
    arrived_[static_cast<std::size_t>(rank)].notify_all();
  }

  std::deque<Message>& queue(int from, int to) {
    return queues_[static_cast<std::size_t>(from * ranks_ + to)];
  }

  const int ranks_;
  const std::vector<int> hosts_;
  std::mutex mutex_;
  std::vector<std::uint64_t> arrivals_;           // by receiving rank
  std::vector<std::deque<Message>> queues_;       // [from][to]
  std::vector<std::condition_variable> arrived_;  // one per receiving rank
  std::vector<bool> left_;
  int stopped_rank_ = -1;
  std::string stopped_why_;
  std::map<std::pair<std::uint32_t, int>, Child> children_;
};

class ThreadTransport : public Transport {
 public:
  ThreadTransport(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~ThreadTransport() override { group_->leave(rank_); }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return group_->size(); }
  std::string_view backend() const noexcept override { return "threads"; }
  std::size_t max_message_bytes() const noexcept override { return 1 << 20; }
  bool crowded() const noexcept override { return true; }
  const std::vector<int>& hosts() const noexcept override {
    return group_->hosts();
  }

  Ticket send(int to, MessageTag tag,
              std::span<const std::byte> data) override {
    group_->send(rank_, to, tag, data);
    return {.peer = to};
  }

  Ticket receive(int from, std::span<std::byte> data) override {
    return start(from, kAnyTag, data);
  }
  Ticket receive(int from, MessageTag tag, std::span<std::byte> data) override {
    return start(from, tag, data);
  }

  MessageResult wait(Ticket& ticket,
                     SteadyClock::time_point deadline) override {
    if (!ticket.receives) return {};
    return group_->receive(ticket.peer, rank_, ticket.handle,
                           {ticket.data, ticket.size}, deadline);
  }

  bool poll(Ticket& ticket, MessageResult& result) override {
    if (!ticket.receives) return true;
    if (std::exchange(rested_, false)) seen_ = group_->arrivals(rank_);
    return group_->take(ticket.peer, rank_, ticket.handle,
                        {ticket.data, ticket.size}, result);
  }
  bool failed(int peer, SteadyClock::time_point, std::string& why) override {
    return group_->failed(peer, why);
  }
  // Until something has arrived since the first poll after the last rest.
  void rest(SteadyClock::duration) override {
    group_->wait_for_arrival(rank_, seen_);
    rested_ = true;
  }
  bool stray(int from, MessageTag& tag) override {
    return group_->oldest(from, rank_, tag);
  }

  void abandon(Ticket&) noexcept override {}
  std::string blame(int, bool) override { return ""; }
  void stop(std::string_view why) noexcept override {
    group_->stop(rank_, why);
  }

  bool has_all_reduce() const noexcept override { return false; }
  Ticket start_all_reduce(std::span<std::byte>, Element, ReduceOp) override {
    fail<InternalError>("threads: no all-reduce of its own");
  }

  std::unique_ptr<Transport> split(std::uint32_t call, int color,
                                   std::span<const int> members) override {
    const auto place = std::ranges::find(members, rank_) - members.begin();
    return std::make_unique<ThreadTransport>(
        group_->child(call, color, members), static_cast<int>(place));
  }

 private:
  static Ticket start(int from, std::uintptr_t tag, std::span<std::byte> data) {
    return {.handle = tag,
            .peer = from,
            .receives = true,
            .data = data.data(),
            .size = data.size()};
  }

  const std::shared_ptr<Group> group_;
  const int rank_;
  bool rested_ = true;  // since the last poll
  std::uint64_t seen_ = 0;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(Communicator&)>& body,
               std::vector<int> hosts) {
  THINWIRE_ASSERT(ranks >= 1, "ranks = {}", ranks);
  hosts.resize(static_cast<std::size_t>(ranks));
  const auto group = std::make_shared<Group>(ranks, std::move(hosts));
  std::vector<std::exception_ptr> errors(static_cast<std::size_t>(ranks));
  const auto run = [&](int rank) {
    const auto comm =
        make_communicator_over(std::make_unique<ThreadTransport>(group, rank));
    try {
      body(*comm);
    } catch (const std::exception& error) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
      group->stop(rank, error.what());
    } catch (...) {
      errors[static_cast<std::size_t>(rank)] = std::current_exception();
      group->stop(rank, "unknown error");
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < ranks; ++rank) threads.emplace_back(run, rank);
  }
  const int first = group->stopped_rank();
  if (first >= 0 && errors[static_cast<std::size_t>(first)]) {
    std::rethrow_exception(errors[static_cast<std::size_t>(first)]);
  }
  for (const auto& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace thinwire
