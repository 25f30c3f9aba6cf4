// Sums ranges of one flat fp32 vector over all ranks, together with a small
// header of doubles (loss sum, loss weight, non-finite votes) that rides in the
// same exchange. Policies (every step, every H steps) sit above it in dist/.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

namespace at {
class Tensor;
}

namespace thinwire {

class Communicator;

struct ExchangeStats {
  std::int64_t bytes_sent = 0;
  std::int64_t bytes_received = 0;
  double seconds_blocked = 0;
};

class Reducer {
 public:
  virtual ~Reducer() = default;
  // Range [offset, offset + count) of the vector is final and may be sent.
  // Called in the same order on every rank.
  virtual void ready(std::int64_t offset, std::int64_t count) = 0;
  // Blocks until the vector and `header` hold the sums over all ranks.
  // Throws CommError.
  virtual ExchangeStats finish(std::span<double> header) = 0;
};

// vector: contiguous fp32 [k], owned by the caller, outliving the reducer.
std::unique_ptr<Reducer> make_flat_reducer(Communicator& comm,
                                           at::Tensor& vector);

}  // namespace thinwire
