// Sums one flat fp32 vector over all ranks, bucket by bucket while backward
// still runs, together with a guard of 32 bytes. Policies (every step, every H
// steps) sit above it in dist/.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/algorithm.h"
#include "comm/communicator.h"
#include "comm/link_model.h"

namespace at {
class Tensor;
}

namespace thinwire {

// A range of the vector that travels as one, in numbers.
struct Bucket {
  std::int64_t offset = 0, count = 0;
  Codec codec = Codec::kFp32;
  bool operator==(const Bucket&) const = default;
};

// What a rank says in every exchange, combined over ranks by combine(). Rides
// at the head of the last bucket's messages.
struct Guard {
  static constexpr int kVotes = 8;  // low bits of `flags`; the others are free
  static constexpr std::uint32_t kMismatch = 1u << 7;  // set by combine()

  std::uint32_t fingerprint = 0;  // sequence, layout, config: must agree
  std::uint32_t flags = 0;        // or-ed
  double loss = 0;                // summed
  double weight = 0;              // summed: examples or target tokens
  float squares = 0;              // summed: each rank's squared gradient norm
  std::uint32_t tokens = 0;       // summed, saturating
};
static_assert(sizeof(Guard) == 32);

// low becomes what both say; low comes from the lower rank, so that all ranks
// get the same bits. Fingerprints that differ set kMismatch.
void combine(Guard& low, const Guard& high) noexcept;

struct ReducerOptions {
  // Cover the vector without overlap, in the order in which they are sent:
  // equal on all ranks.
  std::vector<Bucket> buckets;
  Algorithm algorithm = Algorithm::kAuto;
  // fp32 [k]: what this rank's rounding left behind, added at the next exchange
  // and set by it (error feedback). Null: rounding errors are dropped.
  at::Tensor* residual = nullptr;
  bool overlap = true;  // a thread moves messages between begin() and finish()
  LinkModel link{};     // what kAuto chooses by; equal on all ranks
};

struct ExchangeStats {
  std::int64_t bytes_sent = 0, bytes_received = 0;
  double seconds_blocked = 0;    // inside finish(): exposed
  double seconds_in_flight = 0;  // from the first message to the last
};

class Reducer {
 public:
  virtual ~Reducer() = default;
  // Opens exchange number `sequence` of the run (its low bits are in every
  // envelope). Does not block.
  virtual void begin(std::uint64_t sequence) = 0;
  // Bucket i is final: it goes as soon as all before it in the order have gone.
  // From any thread, in any order, each once. Buckets not named until finish()
  // are final then. Never blocks on other ranks.
  virtual void ready(std::size_t bucket) = 0;
  // Blocks until the vector holds the sums, the same bits on every rank, and
  // `guard` what all ranks said. Throws CommError: timeout, dead peer, other
  // size or call; and naming the ranks when fingerprints differ (the vector
  // then holds nothing of use).
  virtual ExchangeStats finish(Guard& guard) = 0;
  // What this rank hands to the transport in every exchange, guard included,
  // exactly; -1: it depends on the numbers (top-k), or a library knows (NCCL).
  virtual std::int64_t planned_bytes() const { return -1; }
};

// What the reducer of a rank hands to the transport and gets from it in one
// exchange, guard included, exactly. hosts: Transport::hosts; empty: all one.
ByteCount exchange_bytes(const ReducerOptions& options, int ranks, int rank,
                         std::vector<int> hosts = {});

// vector: contiguous CPU fp32 [k], owned by the caller, outliving the reducer.
// Blocks on all ranks. Throws UsageError where algorithm and codec do not fit.
std::unique_ptr<Reducer> make_reducer(Communicator& comm, at::Tensor& vector,
                                      ReducerOptions options);

}  // namespace thinwire
