#include "comm/fleet.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "comm/backoff.h"
#include "comm/watch.h"

namespace thinwire {
namespace {

// A message of the next call says at once that its sender has left this one,
// unless what it sent before is long and came by several ways: then it gets a
// moment.
constexpr std::int64_t kShortMessage = 4096;
constexpr auto kStrayPatience = std::chrono::seconds(1);

}  // namespace

Fleet::Fleet(Transport& transport, ByteCount& bytes,
             std::function<void(const std::string&)> on_error)
    : transport_(transport), bytes_(bytes), on_error_(std::move(on_error)) {
  for (auto& slot : slots_) slot = std::make_unique<Slot>(transport);
}

void Fleet::reserve(std::size_t message, std::size_t code) {
  for (auto& slot : slots_) slot->flight.reserve(message, code);
}

void Fleet::open(CallKind kind, std::uint64_t number, std::string_view tag,
                 std::span<const Leg> legs) {
  THINWIRE_ASSERT(landed(), "{} of {} legs", landed_, legs_.size());
  kind_ = kind;
  number_ = number;
  tag_ = tag;
  legs_ = legs;
  started_ = landed_ = 0;
  release(0);
}

bool Fleet::advance() {
  bool moved = false;
  const std::size_t released = released_.load(std::memory_order_acquire);
  for (auto& slot : slots_) {
    if (slot->flight.landed()) {
      if (started_ == released) continue;
      if (started_ == 0) took_off_ = SteadyClock::now();
      slot->leg = started_++;
      slot->stray_since = {};
      slot->flight.start(legs_[slot->leg].cargo,
                         flight_tag(kind_, number_, slot->leg));
    }
    moved |= move(*slot);
  }
  return moved;
}

bool Fleet::move(Slot& slot) {
  const bool moved = slot.flight.advance(bytes_);
  if (!slot.flight.problem().empty()) raise(slot, slot.flight.problem());
  if (slot.flight.landed() && ++landed_ == legs_.size()) {
    came_down_ = SteadyClock::now();
  }
  return moved;
}

void Fleet::look(SteadyClock::time_point now) {
  for (auto& slot : slots_) {
    if (slot->flight.landed()) continue;
    std::string why;
    if (transport_.failed(slot->flight.peer(), now, why)) {
      // What had arrived before the failure still counts.
      if (move(*slot)) return;
      const int peer = slot->flight.peer();
      raise(*slot, peer < 0
                       ? fmt::format("rank {} waited for all ranks, but {}",
                                     transport_.rank(), why)
                       : fmt::format("rank {} waited for rank {}, but {}",
                                     transport_.rank(), peer, why));
    }
    check_stray(*slot, now);
  }
}

void Fleet::check_stray(Slot& slot, SteadyClock::time_point now) {
  const Flight& flight = slot.flight;
  MessageTag other = 0;
  if (!flight.receives() || !transport_.stray(flight.peer(), other) ||
      same_call(flight.tag(), other)) {
    slot.stray_since = {};
    return;
  }
  const int peer = flight.peer();
  // What arrived between the last poll and that message still counts.
  if (move(slot)) return;
  if (slot.stray_since == SteadyClock::time_point{}) slot.stray_since = now;
  if (flight.awaited_bytes() > kShortMessage &&
      now - slot.stray_since < kStrayPatience) {
    return;
  }
  const std::string blame = transport_.blame(peer, true);
  raise(slot, fmt::format(
                  "the ranks do not make the same calls: rank {} is in {}, "
                  "rank {} in {}{}{}",
                  transport_.rank(), describe(flight.tag(), number_), peer,
                  describe(other, number_), blame.empty() ? "" : "; ", blame));
}

void Fleet::wait(std::size_t count, double timeout_seconds) {
  const InCall status(name_of(kind_), tag_,
                      static_cast<std::uint32_t>(number_));
  Backoff backoff(transport_.crowded());
  SteadyClock::time_point deadline{}, still{};
  while (landed_ < count) {
    if (advance()) {
      still = {};
      continue;
    }
    if (!backoff.look()) continue;
    const auto now = SteadyClock::now();
    if (deadline == SteadyClock::time_point{}) {
      deadline = now + std::chrono::duration_cast<SteadyClock::duration>(
                           std::chrono::duration<double>(timeout_seconds));
    }
    if (still == SteadyClock::time_point{}) still = now;
    look(now);
    const Slot* slot = oldest();
    if (slot != nullptr) report_bucket(legs_[slot->leg].bucket);
    if (now >= deadline) {
      THINWIRE_ASSERT(slot != nullptr, "leg {} of {}", landed_, count);
      const int peer = slot->flight.peer();
      const std::string whom =
          peer < 0 ? "all ranks" : fmt::format("rank {}", peer);
      const std::string blame = transport_.blame(peer, false);
      raise(*slot,
            fmt::format("timed out after {:.1f} s: rank {} waited for {}{}{}",
                        timeout_seconds, transport_.rank(), whom,
                        blame.empty() ? "" : "; ", blame));
    }
    transport_.rest(now - still);
  }
}

const Fleet::Slot* Fleet::oldest() const noexcept {
  const Slot* found = nullptr;
  for (const auto& slot : slots_) {
    if (!slot->flight.landed() &&
        (found == nullptr || slot->leg < found->leg)) {
      found = slot.get();
    }
  }
  return found;
}

void Fleet::raise(const Slot& slot, const std::string& what) {
  std::string name(name_of(kind_));
  if (kind_ == CallKind::kExchange) name += fmt::format(" {}", number_);
  if (!tag_.empty()) name += fmt::format(" '{}'", tag_);
  const int bucket = legs_[slot.leg].bucket;
  if (bucket >= 0) name += fmt::format(", bucket {}", bucket);
  const std::string text = fmt::format("{}: {}", name, what);
  on_error_(text);
  throw CommError(text);
}

}  // namespace thinwire
