#include "comm/plan.h"

#include <algorithm>

#include "base/error.h"
#include "comm/codec.h"
#include "comm/reducer.h"

namespace thinwire {
namespace {

// The longest message of a segment, where the transport takes as much: long
// enough that its start costs little, short enough to stay in cache and to be
// added while the next is on its way.
constexpr std::int64_t kMessageBytes = 256 * 1024;
// What an int can count, in whole numbers of every size.
constexpr std::int64_t kLibraryNumbers = 1 << 30;

std::int64_t longest_segment(const PlanShape& shape, std::int64_t unit) {
  const std::int64_t room = shape.longest_message - std::int64_t{sizeof(Guard)};
  std::int64_t bytes = 0;
  switch (shape.algorithm) {
    case Algorithm::kMpi:
      return kLibraryNumbers;
    case Algorithm::kRing:  // a chunk at a time
      bytes = std::min(kMessageBytes, room) * shape.ranks;
      break;
    case Algorithm::kHalvingDoubling:  // half at first; folded ranks all
    case Algorithm::kTwoLevel:
      bytes = std::min(2 * kMessageBytes, room);
      break;
    default:
      bytes = std::min(kMessageBytes, room);
  }
  return std::max(unit, bytes / shape.number / unit * unit);
}

}  // namespace

Plan make_plan(const PlanShape& shape) {
  Plan plan;
  // Nothing but the guard to exchange: fewest rounds.
  const bool library = shape.algorithm == Algorithm::kMpi && shape.count > 0;
  const Algorithm algorithm =
      shape.count == 0 ? Algorithm::kDoubling : shape.algorithm;
  THINWIRE_ASSERT(!library || !shape.guard, "a guard in the library's call");
  const std::int64_t grain = codec_grain(shape.codec);
  const std::int64_t unit = grain * shape.ranks;
  const std::int64_t longest = longest_segment(shape, unit);
  const std::int64_t pieces =
      std::max<std::int64_t>(1, (shape.count + longest - 1) / longest);
  const std::int64_t even =
      ((shape.count + pieces - 1) / pieces + unit - 1) / unit * unit;
  for (std::int64_t begin = 0;
       begin < shape.count || (begin == 0 && shape.guard); begin += even) {
    const std::int64_t count = std::min(even, shape.count - begin);
    const bool last = begin + count == shape.count;
    // At most three schedules differ: the first's, the last's without a guard
    // and with one.
    const bool new_schedule =
        plan.schedules.empty() || (last && (count != even || shape.guard));
    if (new_schedule) {
      plan.schedules.push_back(
          library ? std::vector<Round>{}
                  : make_schedule({.algorithm = algorithm,
                                   .ranks = shape.ranks,
                                   .rank = shape.rank,
                                   .count = count,
                                   .grain = grain,
                                   .guard = shape.guard && last,
                                   .hosts = shape.hosts}));
    }
    plan.segments.push_back({{begin, count}, plan.schedules.size() - 1});
    plan.longest_segment = std::max(plan.longest_segment, count);
    if (last) break;
  }
  for (const auto& rounds : plan.schedules) {
    for (const Round& round : rounds) {
      plan.longest_message =
          std::max({plan.longest_message,
                    message_bytes(round.out, shape.codec, shape.number),
                    message_bytes(round.in, shape.codec, shape.number)});
    }
  }
  THINWIRE_ASSERT(plan.longest_message <= shape.longest_message,
                  "a message of {} bytes, {} fit", plan.longest_message,
                  shape.longest_message);
  return plan;
}

ByteCount plan_bytes(const Plan& plan, const PlanShape& shape) {
  if (shape.algorithm == Algorithm::kMpi && shape.count > 0) {
    const std::int64_t bytes = shape.ranks > 1 ? shape.number * shape.count : 0;
    return {bytes, bytes};
  }
  std::vector<ByteCount> each;
  for (const auto& rounds : plan.schedules) {
    each.push_back(schedule_bytes(rounds, shape.codec, shape.number));
  }
  ByteCount total;
  for (const Segment& segment : plan.segments) {
    total.sent += each[segment.schedule].sent;
    total.received += each[segment.schedule].received;
  }
  return total;
}

}  // namespace thinwire
