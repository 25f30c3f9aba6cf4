#include "comm/all_reduce.h"

#include "base/error.h"
#include "comm/codec.h"
#include "comm/collectives.h"
#include "comm/link_model.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

// More sizes than a run has; what a sweep leaves behind is not worth keeping.
constexpr std::size_t kMostPlans = 64;

}  // namespace

std::int64_t all_reduce_bytes_sent(int ranks, int rank, std::int64_t bytes,
                                   std::int64_t element) {
  const PlanShape shape{
      .algorithm = choose_algorithm({}, ranks, bytes),
      .ranks = ranks,
      .rank = rank,
      .hosts = std::vector<int>(static_cast<std::size_t>(ranks)),
      .number = element,
      .count = bytes / element};
  return plan_bytes(make_plan(shape), shape).sent;
}

AllReduce::AllReduce(Transport& transport, ByteCount& bytes)
    : transport_(transport),
      fleet_(transport, bytes,
             [&transport](const std::string& why) { transport.stop(why); }) {}

const Plan& AllReduce::plan(Algorithm algorithm, Codec codec,
                            std::int64_t number, std::int64_t count) {
  if (plans_.size() >= kMostPlans) plans_.clear();
  const auto [found, is_new] =
      plans_.try_emplace({algorithm, codec, number, count});
  if (is_new) {
    found->second = make_plan({.algorithm = algorithm,
                               .codec = codec,
                               .ranks = transport_.size(),
                               .rank = transport_.rank(),
                               .hosts = transport_.hosts(),
                               .number = number,
                               .count = count,
                               .longest_message = static_cast<std::int64_t>(
                                   transport_.max_message_bytes())});
  }
  return found->second;
}

void AllReduce::run(std::span<std::byte> data, Element element, ReduceOp op,
                    std::uint64_t number, const OpOptions& options) {
  if (options.codec != Codec::kFp32 &&
      (element != Element::kFloat32 || op != ReduceOp::kSum)) {
    fail<UsageError>("all_reduce '{}': codec {} is for sums of fp32 numbers",
                     options.tag, name_of(options.codec));
  }
  if (options.algorithm == Algorithm::kMpi &&
      (!transport_.has_all_reduce() || options.codec != Codec::kFp32)) {
    fail<UsageError>(
        "all_reduce '{}': algorithm mpi is for backend mpi and codec fp32, got "
        "{} and {}",
        options.tag, transport_.backend(), name_of(options.codec));
  }
  if (transport_.size() == 1) return;
  const auto size = static_cast<std::int64_t>(element_bytes(element));
  const std::int64_t count = std::ssize(data) / size;
  const std::int64_t on_wire = options.codec == Codec::kFp32
                                   ? std::ssize(data)
                                   : encoded_bytes(options.codec, count);
  const Algorithm algorithm =
      options.algorithm == Algorithm::kAuto
          ? choose_algorithm({}, transport_.size(), on_wire, transport_.hosts())
          : options.algorithm;
  const Plan& plan = this->plan(algorithm, options.codec, size, count);
  fleet_.reserve(static_cast<std::size_t>(plan.longest_message),
                 options.codec == Codec::kFp32
                     ? 0
                     : static_cast<std::size_t>(
                           encoded_bytes(options.codec, plan.longest_segment)));
  legs_.clear();
  for (const Segment& segment : plan.segments) {
    legs_.push_back({.cargo = {.data = data.data() + segment.range.begin * size,
                               .count = segment.range.count,
                               .element = element,
                               .op = op,
                               .codec = options.codec,
                               .library = algorithm == Algorithm::kMpi,
                               .rounds = plan.schedules[segment.schedule]}});
  }
  fleet_.open(CallKind::kAllReduce, number, options.tag, legs_);
  fleet_.release(legs_.size());
  fleet_.wait(legs_.size(), options.timeout_seconds);
}

}  // namespace thinwire
