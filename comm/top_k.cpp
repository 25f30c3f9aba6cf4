#include "comm/top_k.h"

#include <ATen/core/Tensor.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

struct Entry {
  std::uint32_t index = 0;
  float value = 0;
};
static_assert(sizeof(Entry) == 8);

// Magnitudes in the order of their bits, so that what is not finite comes
// first and reaches every rank.
std::uint32_t size_of(float number) {
  return std::bit_cast<std::uint32_t>(number) & 0x7fffffffu;
}

class TopKReducer : public Reducer {
 public:
  TopKReducer(Communicator& comm, at::Tensor& vector, at::Tensor& residual,
              double density)
      : comm_(comm),
        vector_(vector),
        residual_(residual),
        kept_(static_cast<std::size_t>(top_k_count(vector.numel(), density))),
        order_(static_cast<std::size_t>(vector.numel())),
        message_(sizeof(Guard) + kept_ * sizeof(Entry)) {}

  void begin(std::uint64_t sequence) override { sequence_ = sequence; }
  void ready(std::size_t) override {}

  ExchangeStats finish(Guard& guard) override {
    const ByteCount before = comm_.bytes();
    const auto begin = std::chrono::steady_clock::now();
    pack(guard);
    const auto all = comm_.all_gather_v(message_, {.tag = "top-k gradients"});
    const std::uint32_t mine = guard.fingerprint;
    float* sum = vector_.data_ptr<float>();
    std::fill_n(sum, vector_.numel(), 0.0f);
    for (std::size_t r = 0; r < all.size(); ++r) {
      if (all[r].size() != message_.size()) {
        fail<CommError>(
            "exchange {}: rank {} sent {} bytes, rank {} {}: the ranks do not "
            "pass the same size",
            sequence_, r, all[r].size(), comm_.rank(), message_.size());
      }
      add(all[r], r == 0, guard);
    }
    if ((guard.flags & Guard::kMismatch) != 0) {
      agree(comm_, fmt::format("the fingerprint of exchange {}", sequence_),
            fmt::format("{:08x}", mine));
    }
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - begin;
    const ByteCount after = comm_.bytes();
    return {after.sent - before.sent, after.received - before.received,
            took.count(), took.count()};
  }

 private:
  void pack(const Guard& guard) {
    float* rest = residual_.data_ptr<float>();
    const float* given = vector_.const_data_ptr<float>();
    for (std::size_t i = 0; i < order_.size(); ++i) {
      rest[i] += given[i];
      order_[i] = static_cast<std::uint32_t>(i);
    }
    const auto last = order_.begin() + static_cast<std::ptrdiff_t>(kept_);
    std::nth_element(order_.begin(), last, order_.end(),
                     [&](std::uint32_t a, std::uint32_t b) {
                       const auto x = size_of(rest[a]), y = size_of(rest[b]);
                       return x != y ? x > y : a < b;
                     });
    std::sort(order_.begin(), last);
    std::memcpy(message_.data(), &guard, sizeof guard);
    std::byte* at = message_.data() + sizeof guard;
    for (auto i = order_.begin(); i != last; ++i, at += sizeof(Entry)) {
      const Entry entry{*i, std::exchange(rest[*i], 0.0f)};
      std::memcpy(at, &entry, sizeof entry);
    }
  }

  void add(const std::vector<std::byte>& message, bool first, Guard& guard) {
    Guard theirs;
    std::memcpy(&theirs, message.data(), sizeof theirs);
    if (first) {
      guard = theirs;
    } else {
      combine(guard, theirs);
    }
    float* sum = vector_.data_ptr<float>();
    for (std::size_t at = sizeof theirs; at < message.size();
         at += sizeof(Entry)) {
      Entry entry;
      std::memcpy(&entry, message.data() + at, sizeof entry);
      THINWIRE_ASSERT(entry.index < order_.size(), "{} of {}", entry.index,
                      order_.size());
      sum[entry.index] += entry.value;
    }
  }

  Communicator& comm_;
  at::Tensor& vector_;
  at::Tensor& residual_;
  const std::size_t kept_;
  std::vector<std::uint32_t> order_;
  std::vector<std::byte> message_;
  std::uint64_t sequence_ = 0;
};

}  // namespace

std::int64_t top_k_count(std::int64_t count, double density) {
  return std::clamp<std::int64_t>(
      std::llround(density * static_cast<double>(count)),
      std::min<std::int64_t>(1, count), count);
}

std::unique_ptr<Reducer> make_top_k_reducer(Communicator& comm,
                                            at::Tensor& vector,
                                            ReducerOptions options,
                                            double density) {
  if (!(density > 0 && density <= 1)) {
    fail<UsageError>("comm: top-k: density must be in (0, 1], got {}", density);
  }
  if (vector.numel() > std::numeric_limits<std::uint32_t>::max()) {
    fail<UsageError>(
        "comm: top-k: places are 32 bits, the vector has {} "
        "numbers (exchange it without top-k)",
        vector.numel());
  }
  THINWIRE_ASSERT(options.residual != nullptr &&
                      options.residual->numel() == vector.numel(),
                  "vector of {} numbers", vector.numel());
  return std::make_unique<TopKReducer>(comm, vector, *options.residual,
                                       density);
}

}  // namespace thinwire
