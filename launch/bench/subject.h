// One way to sum a vector over ranks, as the benchmark calls it.
#pragma once

#include <memory>

#include "launch/bench/comm_bench.h"

namespace at {
class Tensor;
}

namespace thinwire {

class Subject {
 public:
  virtual ~Subject() = default;
  // Sums the vector over ranks, in place. Throws CommError.
  virtual void exchange() = 0;
  // begin() starts what finish() ends; exchange() is both. For paths that
  // cannot overlap begin() does nothing.
  virtual void begin() {}
  virtual void finish() { exchange(); }
  // Seconds from the first message of the last exchange to its last one, and
  // blocked in finish(); 0 if unknown.
  virtual double in_flight() const { return 0; }
  virtual double blocked() const { return 0; }
  // Of this rank since it was made; 0 if unknown.
  virtual ByteCount bytes() const { return {}; }
};

// vector: contiguous CPU fp32 [k], outliving the subject. Blocks on all ranks.
std::unique_ptr<Subject> make_subject(Communicator& comm, const BenchCase& what,
                                      const LinkModel& link,
                                      at::Tensor& vector);
std::unique_ptr<Subject> make_mpi_subject(at::Tensor& vector);

}  // namespace thinwire
