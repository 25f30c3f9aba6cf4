// MPI_Allreduce alone: the yardstick.
#include <ATen/core/Tensor.h>
#include <mpi.h>

#include "base/error.h"
#include "launch/bench/subject.h"

namespace thinwire {
namespace {

class MpiSubject : public Subject {
 public:
  explicit MpiSubject(at::Tensor& vector)
      : data_(vector.data_ptr<float>()),
        count_(static_cast<int>(vector.numel())) {
    THINWIRE_ASSERT(vector.numel() <= INT32_MAX, "{} numbers", vector.numel());
    MPI_Comm_dup(MPI_COMM_WORLD, &comm_);
  }
  ~MpiSubject() override { MPI_Comm_free(&comm_); }
  MpiSubject(const MpiSubject&) = delete;
  MpiSubject& operator=(const MpiSubject&) = delete;

  void exchange() override {
    const int code =
        MPI_Allreduce(MPI_IN_PLACE, data_, count_, MPI_FLOAT, MPI_SUM, comm_);
    if (code != MPI_SUCCESS) fail<CommError>("MPI_Allreduce: code {}", code);
  }

 private:
  float* data_;
  int count_;
  MPI_Comm comm_ = MPI_COMM_NULL;
};

}  // namespace

std::unique_ptr<Subject> make_mpi_subject(at::Tensor& vector) {
  return std::make_unique<MpiSubject>(vector);
}

}  // namespace thinwire
