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

// What the ranks of one communicator share. A message is copied into the
// receiver's queue, so sends never wait.
class Group {
 public:
  explicit Group(int ranks)
      : ranks_(ranks),
        queues_(static_cast<std::size_t>(ranks * ranks)),
        arrived_(static_cast<std::size_t>(ranks)),
        left_(static_cast<std::size_t>(ranks)) {}

  int size() const noexcept { return ranks_; }
  // The rank that stopped first, or -1.
  int stopped_rank() const noexcept { return stopped_rank_; }

  void send(int from, int to, MessageTag tag, std::span<const std::byte> data) {
    const std::lock_guard lock(mutex_);
    queue(from, to).push_back({tag, {data.begin(), data.end()}});
    arrived_[static_cast<std::size_t>(to)].notify_one();
  }

  MessageResult receive(int from, int to, std::span<std::byte> into,
                        SteadyClock::time_point deadline) {
    std::unique_lock lock(mutex_);
    auto& waiting = queue(from, to);
    const bool due =
        arrived_[static_cast<std::size_t>(to)].wait_until(lock, deadline, [&] {
          return !waiting.empty() || stopped_rank_ >= 0 ||
                 left_[static_cast<std::size_t>(from)];
        });
    MessageResult result;
    if (!waiting.empty()) {
      const Message message = std::move(waiting.front());
      waiting.pop_front();
      const std::size_t n = std::min(into.size(), message.data.size());
      if (n > 0) std::memcpy(into.data(), message.data.data(), n);
      result.tag = message.tag;
      result.bytes = message.data.size();
    } else if (!due) {
      result.status = MessageResult::Status::kTimeout;
    } else {
      result.status = MessageResult::Status::kFailed;
      result.text =
          stopped_rank_ >= 0
              ? fmt::format("rank {} stopped: {}", stopped_rank_, stopped_why_)
              : fmt::format("rank {} has left", from);
    }
    return result;
  }

  void stop(int rank, std::string_view why) noexcept {
    const std::lock_guard lock(mutex_);
    if (stopped_rank_ < 0) {
      stopped_rank_ = rank;
      stopped_why_ = why;
    }
    for (auto& rank_arrived : arrived_) rank_arrived.notify_one();
  }

  void leave(int rank) noexcept {
    const std::lock_guard lock(mutex_);
    left_[static_cast<std::size_t>(rank)] = true;
    for (auto& rank_arrived : arrived_) rank_arrived.notify_one();
  }

  // The first of `ranks` callers makes the group, the last takes it off the
  // list.
  std::shared_ptr<Group> child(std::uint32_t call, int color, int ranks) {
    const std::lock_guard lock(mutex_);
    auto& entry = children_[{call, color}];
    if (!entry.group) entry.group = std::make_shared<Group>(ranks);
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

  std::deque<Message>& queue(int from, int to) {
    return queues_[static_cast<std::size_t>(from * ranks_ + to)];
  }

  const int ranks_;
  std::mutex mutex_;
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

  Ticket send(int to, MessageTag tag,
              std::span<const std::byte> data) override {
    group_->send(rank_, to, tag, data);
    return {.peer = to};
  }

  Ticket receive(int from, std::span<std::byte> data) override {
    return {.peer = from,
            .receives = true,
            .data = data.data(),
            .size = data.size()};
  }

  MessageResult wait(Ticket& ticket,
                     SteadyClock::time_point deadline) override {
    if (!ticket.receives) return {};
    return group_->receive(ticket.peer, rank_, {ticket.data, ticket.size},
                           deadline);
  }

  void abandon(Ticket&) noexcept override {}
  void stop(std::string_view why) noexcept override {
    group_->stop(rank_, why);
  }

  std::unique_ptr<Transport> split(std::uint32_t call, int color, int new_rank,
                                   int new_size) override {
    return std::make_unique<ThreadTransport>(
        group_->child(call, color, new_size), new_rank);
  }

 private:
  const std::shared_ptr<Group> group_;
  const int rank_;
};

}  // namespace

void run_ranks(int ranks, const std::function<void(Communicator&)>& body) {
  THINWIRE_ASSERT(ranks >= 1, "ranks = {}", ranks);
  const auto group = std::make_shared<Group>(ranks);
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
