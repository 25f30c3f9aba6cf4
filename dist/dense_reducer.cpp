#include "dist/dense_reducer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/error.h"
#include "models/parameters.h"

namespace thinwire {
namespace {

constexpr std::int64_t kBucket = 25'000'000 / 4;  // numbers

class DenseReducer : public Reducer {
 public:
  DenseReducer(Communicator& comm, Delta& delta, const Parameters& parameters,
               ReducerOptions options)
      : delta_(delta) {
    std::vector<std::int64_t> begins;  // of each slot
    std::int64_t size = 0;
    for (int i = 0; i < parameters.size(); ++i) {
      begins.push_back(size);
      const Parameters::Slot& slot = parameters.slot(i);
      if (!slot.buffer) size += slot.frozen.numel();
    }
    for (const DeltaEntry& e : delta.entries()) {
      const int slot = e.target.empty() ? -1 : parameters.find(e.target);
      if (slot >= 0) {
        begins_.push_back(begins[static_cast<std::size_t>(slot)]);
      } else {  // a tensor of the method's own
        begins_.push_back(size);
        size += e.count;
      }
    }
    dense_ = at::zeros({size}, at::kFloat);
    options.buckets.clear();
    for (std::int64_t at = size; at > 0;) {
      const std::int64_t count = std::min(at, kBucket);
      at -= count;
      options.buckets.push_back({at, count});
    }
    reducer_ = make_reducer(comm, dense_, std::move(options));
  }

  std::int64_t planned_bytes() const override {
    return reducer_->planned_bytes();
  }

  void begin(std::uint64_t sequence) override { reducer_->begin(sequence); }
  void ready(std::size_t) override {}  // all go in finish()

  ExchangeStats finish(Guard& guard) override {
    float* sparse = delta_.grads().mutable_data_ptr<float>();
    float* dense = dense_.mutable_data_ptr<float>();
    dense_.zero_();
    each([&](std::int64_t i, std::int64_t j) { dense[j] = sparse[i]; });
    const ExchangeStats stats = reducer_->finish(guard);
    each([&](std::int64_t i, std::int64_t j) { sparse[i] = dense[j]; });
    return stats;
  }

 private:
  // f(place in the delta, place among all numbers).
  template <class F>
  void each(const F& f) const {
    for (std::size_t e = 0; e < begins_.size(); ++e) {
      const DeltaEntry& entry = delta_.entries()[e];
      const std::int64_t to = begins_[e];
      if (!entry.index.defined()) {
        for (std::int64_t i = 0; i < entry.count; ++i) {
          f(entry.offset + i, to + i);
        }
      } else if (entry.index.scalar_type() == at::kInt) {
        const auto* index = entry.index.const_data_ptr<std::int32_t>();
        for (std::int64_t i = 0; i < entry.count; ++i) {
          f(entry.offset + i, to + index[i]);
        }
      } else {
        const auto* index = entry.index.const_data_ptr<std::int64_t>();
        for (std::int64_t i = 0; i < entry.count; ++i) {
          f(entry.offset + i, to + index[i]);
        }
      }
    }
  }

  Delta& delta_;
  std::vector<std::int64_t> begins_;  // of each entry among all numbers
  at::Tensor dense_;
  std::unique_ptr<Reducer> reducer_;
};

}  // namespace

std::unique_ptr<Reducer> make_dense_reducer(Communicator& comm, Delta& delta,
                                            const Parameters& parameters,
                                            ReducerOptions options) {
  return std::make_unique<DenseReducer>(comm, delta, parameters,
                                        std::move(options));
}

}  // namespace thinwire
