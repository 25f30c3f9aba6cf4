#include "comm/manifest.h"

#include <algorithm>

#include "base/error.h"
#include "comm/codec.h"
#include "comm/link_model.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

void add_plan(Manifest& manifest, const PlanShape& shape, const Leg& first) {
  manifest.shapes.push_back(std::make_unique<PlanShape>(shape));
  manifest.plans.push_back(std::make_unique<Plan>(make_plan(shape)));
  const Plan& plan = *manifest.plans.back();
  for (const Segment& segment : plan.segments) {
    Leg leg = first;
    leg.cargo.data += 4 * segment.range.begin;
    if (leg.cargo.rest != nullptr) leg.cargo.rest += segment.range.begin;
    leg.cargo.count = segment.range.count;
    leg.cargo.codec = shape.codec;
    leg.cargo.library = shape.algorithm == Algorithm::kMpi && shape.count > 0;
    leg.cargo.rounds = plan.schedules[segment.schedule];
    const bool last = &segment == &plan.segments.back();
    if (!shape.guard || !last) leg.cargo.guard = nullptr;
    manifest.legs.push_back(leg);
  }
  manifest.longest_message = std::max(
      manifest.longest_message, static_cast<std::size_t>(plan.longest_message));
  if (shape.codec != Codec::kFp32) {
    manifest.longest_code = std::max(manifest.longest_code,
                                     static_cast<std::size_t>(encoded_bytes(
                                         shape.codec, plan.longest_segment)));
  }
}

}  // namespace

Manifest make_manifest(const ReducerOptions& options, const PlanShape& shape,
                       std::byte* data, float* rest, Guard* guard) {
  Manifest manifest;
  if (shape.ranks == 1) {
    manifest.ends.assign(options.buckets.size(), 0);
    return manifest;
  }
  manifest.guard_first =
      options.algorithm == Algorithm::kMpi || options.buckets.empty();
  if (manifest.guard_first) {
    PlanShape alone = shape;
    alone.algorithm = Algorithm::kDoubling;
    alone.guard = true;
    add_plan(manifest, alone, {.cargo = {.guard = guard}});
  }
  // What is sparing with bytes is decided by all of them: many small buckets
  // are a large exchange.
  std::int64_t total = 0;
  for (const Bucket& b : options.buckets) {
    total += encoded_bytes(b.codec, b.count);
  }
  const std::int64_t least = total >= kFewestBytesFrom ? kFewestBytesFrom : 0;
  for (std::size_t i = 0; i < options.buckets.size(); ++i) {
    const Bucket& bucket = options.buckets[i];
    PlanShape mine = shape;
    mine.codec = bucket.codec;
    mine.count = bucket.count;
    mine.algorithm =
        options.algorithm != Algorithm::kAuto
            ? options.algorithm
            : choose_algorithm(
                  options.link, shape.ranks,
                  std::max(least, encoded_bytes(bucket.codec, bucket.count)),
                  shape.hosts);
    mine.guard = !manifest.guard_first && i + 1 == options.buckets.size();
    const bool rounds = bucket.codec != Codec::kFp32;
    add_plan(manifest, mine,
             {.cargo = {.data = data + 4 * bucket.offset,
                        .rest = rounds && rest ? rest + bucket.offset : nullptr,
                        .guard = guard},
              .bucket = static_cast<int>(i)});
    manifest.ends.push_back(manifest.legs.size());
  }
  return manifest;
}

ByteCount manifest_bytes(const Manifest& manifest) {
  ByteCount total;
  for (std::size_t i = 0; i < manifest.plans.size(); ++i) {
    const ByteCount bytes = plan_bytes(*manifest.plans[i], *manifest.shapes[i]);
    total.sent += bytes.sent;
    total.received += bytes.received;
  }
  return total;
}

ByteCount exchange_bytes(const ReducerOptions& options, int ranks, int rank,
                         std::vector<int> hosts) {
  if (hosts.empty()) hosts.resize(static_cast<std::size_t>(ranks));
  // Pointers are set into this, and never followed.
  std::byte nothing{};
  Guard guard;
  const Manifest manifest = make_manifest(
      options, {.ranks = ranks, .rank = rank, .hosts = std::move(hosts)},
      &nothing, nullptr, &guard);
  return manifest_bytes(manifest);
}

}  // namespace thinwire
