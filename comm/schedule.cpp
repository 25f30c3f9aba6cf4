#include "comm/schedule.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "comm/codec.h"
#include "comm/reducer.h"

namespace thinwire {
namespace {

int wrap(int i, int n) { return ((i % n) + n) % n; }

// Chunk i of n of a range, in whole grains; the first ones are longer.
class Chunks {
 public:
  Chunks(Range range, std::int64_t grain, int n)
      : range_(range),
        grain_(grain),
        n_(n),
        grains_((range.count + grain - 1) / grain) {}

  Range operator()(int first, int last) const {  // chunks [first, last)
    const std::int64_t begin = at(first);
    return {range_.begin + begin, at(last) - begin};
  }
  Range operator()(int i) const { return (*this)(i, i + 1); }

 private:
  std::int64_t at(std::int64_t i) const {
    return std::min(range_.count,
                    (i * (grains_ / n_) + std::min(i, grains_ % n_)) * grain_);
  }

  const Range range_;
  const std::int64_t grain_;
  const int n_;
  const std::int64_t grains_;
};

// Ranks that exchange one range, and this one's place among them.
struct Members {
  std::vector<int> ranks;
  int place = 0;
  int count() const { return static_cast<int>(ranks.size()); }
  int operator[](int i) const { return ranks[static_cast<std::size_t>(i)]; }
};

class Builder {
 public:
  Builder(std::int64_t grain, bool guard) : grain_(grain), guard_(guard) {}

  void doubling(const Members& all, Range range);
  void halving_doubling(const Members& all, Range range);
  void ring(const Members& all, Range range);
  void two_level(const ScheduleShape& shape);

  std::vector<Round> take() { return std::move(rounds_); }

 private:
  // A message that would be empty is left out; both ends know it.
  Message message(int peer, Range range, bool coded, bool guard) const {
    if (range.count == 0 && !guard) return {};
    return {peer, range, coded, guard};
  }
  void add(const Round& round) {
    if (round.seal.count > 0 || round.out.peer >= 0 || round.in.peer >= 0) {
      rounds_.push_back(round);
    }
  }

  bool fold_in(const Members& all, Range range, Members& core);
  void fold_out(const Members& all, Range range, bool coded);

  const std::int64_t grain_;
  bool guard_;
  std::vector<Round> rounds_;
};

// Of the 2 * extra first members the even ones hand over to the next and sit
// out. Whether this one has a part in the core.
bool Builder::fold_in(const Members& all, Range range, Members& core) {
  const int n = all.count();
  const int size = static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
  const int extra = n - size, me = all.place;
  for (int i = 0; i < n; ++i) {
    if (i < 2 * extra && i % 2 == 0) continue;
    if (i == me) core.place = core.count();
    core.ranks.push_back(all[i]);
  }
  if (me >= 2 * extra) return true;
  if (me % 2 == 0) {
    add({.seal = range,
         .keeps_error = true,
         .out = message(all[me + 1], range, true, guard_)});
    return false;
  }
  add({.in = message(all[me - 1], range, true, guard_),
       .arrival = Arrival::kAdd,
       .guard_rule = GuardRule::kCombine});
  return true;
}

void Builder::fold_out(const Members& all, Range range, bool coded) {
  const int n = all.count(), me = all.place;
  const int extra =
      n - static_cast<int>(std::bit_floor(static_cast<unsigned>(n)));
  if (me >= 2 * extra) return;
  if (me % 2 == 1) {
    add({.out = message(all[me - 1], range, coded, guard_)});
  } else {
    add({.in = message(all[me + 1], range, coded, guard_),
         .arrival = Arrival::kReplace,
         .guard_rule = GuardRule::kReplaceSum});
  }
}

// The lowest of those that hold the same sum keeps what rounding it left.
void Builder::doubling(const Members& all, Range range) {
  Members core;
  if (fold_in(all, range, core)) {
    for (int bit = 1; bit < core.count(); bit *= 2) {
      const int peer = core[core.place ^ bit];
      add({.seal = range,
           .keeps_error = (core.place & (bit - 1)) == 0,
           .out = message(peer, range, true, guard_),
           .in = message(peer, range, true, guard_),
           .arrival = Arrival::kAdd,
           .guard_rule = GuardRule::kCombine});
    }
  }
  fold_out(all, range, false);
}

void Builder::halving_doubling(const Members& all, Range range) {
  Members core;
  if (fold_in(all, range, core)) {
    const Chunks chunks(range, grain_, core.count());
    int first = 0, last = core.count();  // chunks that are still this rank's
    for (int bit = 1; bit < core.count(); bit *= 2) {
      const int peer = core[core.place ^ bit];
      const int middle = (first + last) / 2;
      const bool upper = (core.place & bit) != 0;
      const Range low = chunks(first, middle), high = chunks(middle, last);
      add({.seal = upper ? low : high,
           .keeps_error = true,
           .out = message(peer, upper ? low : high, true, guard_),
           .in = message(peer, upper ? high : low, true, guard_),
           .arrival = Arrival::kAdd,
           .guard_rule = GuardRule::kCombine});
      (upper ? first : last) = middle;
    }
    bool sealed = false;
    for (int bit = core.count() / 2; bit > 0; bit /= 2) {
      const int peer = core[core.place ^ bit];
      const int length = last - first;
      const bool upper = (core.place & bit) != 0;
      const Range mine = chunks(first, last);
      const Range theirs =
          upper ? chunks(first - length, first) : chunks(last, last + length);
      add({.seal = sealed ? Range{} : mine,
           .keeps_error = true,
           .out = message(peer, mine, true, false),
           .in = message(peer, theirs, true, false),
           .arrival = Arrival::kReplace});
      sealed = true;
      (upper ? first : last) += upper ? -length : length;
    }
  }
  fold_out(all, range, true);
}

// Chunk c goes from member c once around to member c - 1, gathering the sum in
// that order, then once more to reach everyone. The guard's sum grows alike;
// the one of member 0 is then handed on, so that all hold its bits.
void Builder::ring(const Members& all, Range range) {
  const int n = all.count(), me = all.place;
  const Chunks chunks(range, grain_, n);
  const int to = all[wrap(me + 1, n)], from = all[wrap(me - 1, n)];
  for (int step = 0; step < n - 1; ++step) {
    const Range out = chunks(wrap(me - step, n));
    add({.settle = step == 0,
         .seal = out,
         .keeps_error = true,
         .out = message(to, out, true, guard_),
         .in = message(from, chunks(wrap(me - step - 1, n)), true, guard_),
         .arrival = Arrival::kAdd,
         .guard_rule = GuardRule::kAddOwn});
  }
  for (int step = 0; step < n - 1; ++step) {
    const Range out = chunks(wrap(me + 1 - step, n));
    add({.seal = step == 0 ? out : Range{},
         .keeps_error = true,
         .out = message(to, out, true, guard_),
         .in = message(from, chunks(wrap(me - step, n)), true, guard_),
         .arrival = Arrival::kReplace,
         .guard_rule = me == 0 ? GuardRule::kIgnore : GuardRule::kReplaceSum});
  }
}

// Lane i is added by the i-th rank of each host, then between those; as many
// lanes as the smallest host has ranks. The guard keeps to lane 0.
void Builder::two_level(const ScheduleShape& shape) {
  std::vector<std::vector<int>> groups;
  std::vector<int> names;
  Members near;  // this rank's host
  for (int rank = 0; rank < shape.ranks; ++rank) {
    const int host = shape.hosts[static_cast<std::size_t>(rank)];
    const auto at = std::ranges::find(names, host) - names.begin();
    if (at == static_cast<std::ptrdiff_t>(names.size())) {
      names.push_back(host);
      groups.emplace_back();
    }
    groups[static_cast<std::size_t>(at)].push_back(rank);
  }
  const int mine = shape.hosts[static_cast<std::size_t>(shape.rank)];
  std::size_t smallest = groups.front().size();
  for (std::size_t i = 0; i < groups.size(); ++i) {
    smallest = std::min(smallest, groups[i].size());
    if (names[i] == mine) near.ranks = groups[i];
  }
  near.place = static_cast<int>(std::ranges::find(near.ranks, shape.rank) -
                                near.ranks.begin());
  const int lanes = static_cast<int>(smallest);
  const int n = near.count(), me = near.place;
  const Chunks lane({0, shape.count}, grain_, lanes);
  const bool guard = guard_;

  for (int step = 1; step < n; ++step) {
    const int to = wrap(me + step, n), from = wrap(me - step, n);
    Round round;
    if (to < lanes) {
      round.out = message(near[to], lane(to), false, guard && to == 0);
    }
    if (me < lanes) {
      round.in = message(near[from], lane(me), false, guard && me == 0);
    }
    round.own_guard = true;
    round.guard_rule = GuardRule::kCombine;
    add(round);
  }
  if (me < lanes) {
    Members far;
    for (std::size_t i = 0; i < groups.size(); ++i) {
      if (names[i] == mine) far.place = far.count();
      far.ranks.push_back(groups[i][static_cast<std::size_t>(me)]);
    }
    guard_ = guard && me == 0;
    if (far.count() == 1) {
      add({.seal = lane(me), .keeps_error = true});
    } else if (std::has_single_bit(static_cast<unsigned>(far.count()))) {
      halving_doubling(far, lane(me));
    } else {
      ring(far, lane(me));
    }
    guard_ = guard;
  }
  for (int step = 1; step < n; ++step) {
    const int to = wrap(me + step, n), from = wrap(me - step, n);
    Round round;
    if (me < lanes) {
      round.out = message(near[to], lane(me), true, guard && me == 0);
    }
    if (from < lanes) {
      round.in = message(near[from], lane(from), true, guard && from == 0);
    }
    round.arrival = Arrival::kReplace;
    round.guard_rule = GuardRule::kReplaceSum;
    add(round);
  }
}

}  // namespace

std::vector<Round> make_schedule(const ScheduleShape& shape) {
  THINWIRE_ASSERT(shape.rank >= 0 && shape.rank < shape.ranks &&
                      shape.count >= 0 && shape.grain >= 1,
                  "rank {} of {}, {} numbers, grain {}", shape.rank,
                  shape.ranks, shape.count, shape.grain);
  if (shape.ranks == 1) return {};
  Members all;
  for (int rank = 0; rank < shape.ranks; ++rank) all.ranks.push_back(rank);
  all.place = shape.rank;
  const Range range{0, shape.count};
  Builder builder(shape.grain, shape.guard);
  switch (shape.algorithm) {
    case Algorithm::kDoubling:
      builder.doubling(all, range);
      break;
    case Algorithm::kHalvingDoubling:
      builder.halving_doubling(all, range);
      break;
    case Algorithm::kRing:
      builder.ring(all, range);
      break;
    case Algorithm::kTwoLevel:
      THINWIRE_ASSERT(std::ssize(shape.hosts) == shape.ranks, "{} hosts",
                      shape.hosts.size());
      builder.two_level(shape);
      break;
    case Algorithm::kAuto:
    case Algorithm::kMpi:
      fail<InternalError>("schedule: algorithm '{}' has no rounds",
                          name_of(shape.algorithm));
  }
  return builder.take();
}

std::int64_t message_bytes(const Message& message, Codec codec,
                           std::int64_t number) {
  if (message.peer < 0) return 0;
  const std::int64_t guard = message.guard ? std::int64_t{sizeof(Guard)} : 0;
  return guard + (message.coded && codec != Codec::kFp32
                      ? encoded_bytes(codec, message.range.count)
                      : number * message.range.count);
}

ByteCount schedule_bytes(std::span<const Round> rounds, Codec codec,
                         std::int64_t number) {
  ByteCount bytes;
  for (const Round& round : rounds) {
    bytes.sent += message_bytes(round.out, codec, number);
    bytes.received += message_bytes(round.in, codec, number);
  }
  return bytes;
}

}  // namespace thinwire
