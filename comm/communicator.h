// A group of ranks and the collectives they share.
//
// A communicator is a value somebody owns: two groups in one process, or four
// ranks as four threads of one test, are possible. Calls on one communicator
// are made by one thread, in the same order on every rank.
//
// Backends: `self` (one rank), `threads` (ranks are threads of this process,
// comm/threads.h), `mpi`. They supply only point-to-point messages
// (comm/transport.h); every algorithm is written once above those, so that
// bytes are counted, deadlines kept and results bit-identical alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "comm/algorithm.h"

namespace at {
class Tensor;
}

namespace thinwire {

class Transport;

enum class ReduceOp { kSum, kMax, kMin };

struct OpOptions {
  std::string_view tag = "";   // what is exchanged, for messages
  double timeout_seconds = 0;  // end to end; 0: the communicator's default
  // Of all_reduce; equal on all ranks. Another codec than fp32 rounds, the same
  // on every rank: fp32 sums only.
  Algorithm algorithm = Algorithm::kAuto;
  Codec codec = Codec::kFp32;
};

// Bytes handed to the transport by this rank, headers of lower layers not
// counted.
struct ByteCount {
  std::int64_t sent = 0;
  std::int64_t received = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const noexcept = 0;
  virtual int size() const noexcept = 0;
  virtual std::string_view backend() const noexcept = 0;

  // All block on the other ranks, and throw CommError naming tag, rank, peer
  // and elapsed time on a timeout, a dead peer or a message of another size.
  // The communicator is unusable after that, and what the tensor holds is
  // undefined.

  // In place, contiguous CPU fp32, fp64 or int64 of any shape; every rank
  // holds bit-identical results.
  virtual void all_reduce(at::Tensor& inout, ReduceOp op,
                          const OpOptions& options = {}) = 0;
  // out[r] = what rank r passed as `in`; lengths may differ.
  virtual std::vector<std::vector<std::byte>> all_gather_v(
      std::span<const std::byte> in, const OpOptions& options = {}) = 0;
  // In place; every rank passes a tensor of the same dtype and size.
  virtual void broadcast(at::Tensor& inout, int root,
                         const OpOptions& options = {}) = 0;
  // Root's bytes are returned on every rank; the others pass an empty span.
  virtual std::vector<std::byte> broadcast_bytes(
      std::span<const std::byte> in, int root,
      const OpOptions& options = {}) = 0;
  virtual void barrier(const OpOptions& options = {}) = 0;
  // Ranks with the same colour form a new communicator, ordered by (key, rank).
  virtual std::unique_ptr<Communicator> split(
      int color, int key, const OpOptions& options = {}) = 0;

  virtual ByteCount bytes() const noexcept = 0;  // since construction
  // For engines that move messages of their own (comm/reducer.h): a transport
  // of the same ranks on the host, whose messages never meet those of this
  // communicator's calls, what they moved, and how they tell the ranks that
  // wait in those calls that this one stops. The first is collective.
  virtual std::unique_ptr<Transport> open_transport(
      const OpOptions& options = {}) = 0;
  virtual void count(ByteCount moved) noexcept = 0;
  virtual void stop(std::string_view why) noexcept = 0;
  virtual double default_timeout_seconds() const noexcept = 0;
  virtual void set_default_timeout_seconds(double seconds) = 0;
};

// "auto" is mpi when started by mpirun (or srun), else self. Throws UsageError
// naming the backends for any other word. MPI must have been initialised by an
// MpiSession (comm/mpi.h).
std::unique_ptr<Communicator> make_communicator(std::string_view backend);

// True when every rank passes the same text; else every rank throws CommError:
// `what` differs, and which ranks hold the minority value. Used at start, at
// every layout change and at checkpoints.
void agree(Communicator& comm, std::string_view what, std::string_view value);

// Runs on every rank even when `error` is set on some: if any rank passes a
// non-empty error, all throw UsageError with the lowest rank's text prefixed by
// the ranks concerned. A check made on one rank alone must end here.
void agree_ok(Communicator& comm, std::string_view error);

// Before all ranks throw for a reason that all have from one exchange: a rank
// that left at once would break that exchange off for those still in it. Blocks
// on the other ranks.
void await_others_before_throw(Communicator& comm) noexcept;

}  // namespace thinwire
