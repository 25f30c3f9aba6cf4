#include "comm/reducer.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>

#include <chrono>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

// One exchange of the whole vector when the step is finished.
class FlatReducer : public Reducer {
 public:
  FlatReducer(Communicator& comm, at::Tensor& vector)
      : comm_(comm), vector_(vector) {
    if (vector.scalar_type() != at::kFloat || vector.dim() != 1 ||
        !vector.is_contiguous() || !vector.device().is_cpu()) {
      fail<InternalError>(
          "reducer: the vector must be contiguous CPU fp32 [k]");
    }
  }

  void ready(std::int64_t offset, std::int64_t count) override {
    THINWIRE_ASSERT(
        offset >= 0 && count >= 0 && offset + count <= vector_.numel(),
        "offset = {}, count = {}, k = {}", offset, count, vector_.numel());
  }

  ExchangeStats finish(std::span<double> header) override {
    const ByteCount before = comm_.bytes();
    const auto begin = std::chrono::steady_clock::now();
    if (!header.empty()) {
      at::Tensor head = at::from_blob(
          header.data(), {static_cast<std::int64_t>(header.size())},
          at::TensorOptions().dtype(at::kDouble));
      comm_.all_reduce(head, ReduceOp::kSum, {.tag = "header"});
    }
    comm_.all_reduce(vector_, ReduceOp::kSum, {.tag = "grads"});
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - begin;
    const ByteCount after = comm_.bytes();
    return {after.sent - before.sent, after.received - before.received,
            took.count()};
  }

 private:
  Communicator& comm_;
  at::Tensor& vector_;
};

}  // namespace

std::unique_ptr<Reducer> make_flat_reducer(Communicator& comm,
                                           at::Tensor& vector) {
  return std::make_unique<FlatReducer>(comm, vector);
}

}  // namespace thinwire
