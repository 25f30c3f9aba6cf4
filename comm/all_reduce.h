// The all-reduce of a communicator: one call of the engine that moves buckets
// (comm/fleet.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "comm/combine.h"
#include "comm/communicator.h"
#include "comm/fleet.h"
#include "comm/plan.h"

namespace thinwire {

class AllReduce {
 public:
  // Both outlive it; bytes gains what is moved.
  AllReduce(Transport& transport, ByteCount& bytes);

  // In place; blocks on all ranks. number: how many calls were made before.
  // Throws CommError; UsageError where algorithm or codec do not fit.
  void run(std::span<std::byte> data, Element element, ReduceOp op,
           std::uint64_t number, const OpOptions& options);

 private:
  using Key = std::tuple<Algorithm, Codec, std::int64_t, std::int64_t>;
  const Plan& plan(Algorithm algorithm, Codec codec, std::int64_t number,
                   std::int64_t count);

  Transport& transport_;
  Fleet fleet_;
  std::map<Key, Plan> plans_;
  std::vector<Leg> legs_;
};

}  // namespace thinwire
