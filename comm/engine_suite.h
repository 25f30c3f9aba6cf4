// What the engine must do on any backend, as functions that all ranks run:
// engine_test.cpp has threads, engine_mpi_test.cpp processes. Values are small
// integers where sums must be exact.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "comm/communicator.h"
#include "comm/plan.h"
#include "comm/reducer.h"
#include "comm/transport.h"

namespace thinwire::engine_suite {

using testing::HasSubstr;

inline constexpr Algorithm kAlgorithms[] = {
    Algorithm::kDoubling, Algorithm::kHalvingDoubling, Algorithm::kRing,
    Algorithm::kTwoLevel};
inline constexpr Codec kCodecs[] = {Codec::kFp32, Codec::kBf16, Codec::kInt8};

inline at::Tensor floats(std::int64_t n) {
  return at::empty({n}, at::TensorOptions().dtype(at::kFloat));
}

inline at::Tensor normal(std::int64_t n, const std::string& name) {
  at::Tensor t = floats(n);
  fill_normal(t.data_ptr<float>(), n, 11, name, 1.0f);
  return t;
}

inline std::string digest(const at::Tensor& t) {
  return hash128(std::as_bytes(std::span(t.const_data_ptr<float>(),
                                         static_cast<std::size_t>(t.numel()))))
      .hex();
}

inline std::string label(Algorithm algorithm, Codec codec, int ranks,
                         std::int64_t n) {
  return std::string(name_of(algorithm)) + ", " + std::string(name_of(codec)) +
         ", P = " + std::to_string(ranks) + ", n = " + std::to_string(n);
}

inline float coded(std::int64_t i, int rank) {
  return static_cast<float>((i % 1021) * (rank + 1) - 300 * rank);
}

inline void fill_coded(at::Tensor& t, int rank) {
  float* data = t.data_ptr<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) data[i] = coded(i, rank);
}

inline bool is_coded_sum(const at::Tensor& t, int ranks) {
  const float* data = t.const_data_ptr<float>();
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const auto want =
        static_cast<float>((i % 1021) * (ranks * (ranks + 1) / 2) -
                           300 * (ranks * (ranks - 1) / 2));
    if (data[i] != want) return false;
  }
  return true;
}

inline std::vector<std::int64_t> sizes(int p) {
  return {0, 1, p - 1, p, 2 * p + 1, 4095, 70001, 600011};
}

inline void sums_are_exact(Communicator& comm) {
  const int p = comm.size();
  std::vector<Algorithm> algorithms(std::begin(kAlgorithms),
                                    std::end(kAlgorithms));
  if (comm.backend() == "mpi") algorithms.push_back(Algorithm::kMpi);
  for (const Algorithm algorithm : algorithms) {
    for (const std::int64_t n : sizes(p)) {
      SCOPED_TRACE(label(algorithm, Codec::kFp32, p, n));
      at::Tensor x = floats(n);
      fill_coded(x, comm.rank());
      const ByteCount before = comm.bytes();
      comm.all_reduce(x, ReduceOp::kSum, {.tag = "x", .algorithm = algorithm});
      ASSERT_TRUE(is_coded_sum(x, p));
      if (algorithm == Algorithm::kTwoLevel) continue;  // hosts differ
      const PlanShape shape{
          .algorithm = algorithm, .ranks = p, .rank = comm.rank(), .count = n};
      const ByteCount want = plan_bytes(make_plan(shape), shape);
      EXPECT_EQ(comm.bytes().sent - before.sent, want.sent);
      EXPECT_EQ(comm.bytes().received - before.received, want.received);
    }
  }
}

// Numbers that round, infinities and NaN: the same bits on every rank, near the
// exact sum, and not finite where an input was not.
inline void bits_are_equal(Communicator& comm) {
  const int p = comm.size(), r = comm.rank();
  for (const Algorithm algorithm : kAlgorithms) {
    for (const Codec codec : kCodecs) {
      for (const std::int64_t n : {1L, 300L, 5001L, 200001L}) {
        SCOPED_TRACE(label(algorithm, codec, p, n));
        at::Tensor x = normal(n, "rank " + std::to_string(r));
        at::Tensor want = at::zeros({n}, at::kDouble);
        for (int i = 0; i < p; ++i) {
          want.add_(normal(n, "rank " + std::to_string(i)).to(at::kDouble));
        }
        const bool spoiled = n == 5001 || n == 1;
        if (spoiled && r == p - 1) {
          x.data_ptr<float>()[n - 1] = std::nanf("3");
          x.data_ptr<float>()[n / 2] = std::numeric_limits<float>::infinity();
        }
        if (spoiled && r == 0) x.data_ptr<float>()[0] = std::nanf("5");
        comm.all_reduce(x, ReduceOp::kSum,
                        {.tag = "x", .algorithm = algorithm, .codec = codec});
        agree(comm, "values", digest(x));
        const float* data = x.const_data_ptr<float>();
        if (spoiled) {
          for (const std::int64_t i : {std::int64_t{0}, n / 2, n - 1}) {
            ASSERT_FALSE(std::isfinite(data[i])) << i;
          }
          continue;
        }
        const double step = codec == Codec::kFp32   ? 1e-6
                            : codec == Codec::kBf16 ? 1.0 / 256
                                                    : 1.0 / 127;
        const double* exact = want.const_data_ptr<double>();
        for (std::int64_t i = 0; i < n; ++i) {
          // One rounding of at most half a step of 5 sigma for each hop.
          ASSERT_NEAR(data[i], exact[i], step * 5 * p * std::sqrt(p)) << i;
        }
      }
    }
  }
}

// What is not in the result is in somebody's residual, exchange after exchange.
inline void rests_keep_the_sum(Communicator& comm) {
  const int p = comm.size(), r = comm.rank();
  const std::int64_t n = 9001, cut = 256 * 12;
  for (const Algorithm algorithm : kAlgorithms) {
    for (const Codec codec : {Codec::kBf16, Codec::kInt8}) {
      SCOPED_TRACE(label(algorithm, codec, p, n));
      at::Tensor x = floats(n), rest = at::zeros({n});
      const auto reducer =
          make_reducer(comm, x,
                       {.buckets = {{cut, n - cut, codec}, {0, cut, codec}},
                        .algorithm = algorithm,
                        .residual = &rest});
      at::Tensor given = at::zeros({n}, at::kDouble);
      at::Tensor got = at::zeros({n}, at::kDouble);
      for (int step = 0; step < 3; ++step) {
        x.copy_(normal(
            n, "step " + std::to_string(step) + " rank " + std::to_string(r)));
        given.add_(x.to(at::kDouble));
        Guard guard;
        reducer->begin(static_cast<std::uint64_t>(step));
        reducer->finish(guard);
        got.add_(x.to(at::kDouble));
        agree(comm, "values", digest(x));
        at::Tensor kept = rest.to(at::kDouble), sum = given.clone();
        comm.all_reduce(kept, ReduceOp::kSum);
        comm.all_reduce(sum, ReduceOp::kSum);
        const double off = sum.sub(got).sub(kept).abs().max().item<double>();
        EXPECT_LE(off, 2e-6 * p * (step + 1)) << "step " << step;
        if (p > 1) {
          // Without the residuals it would not have held.
          EXPECT_GT(sum.sub(got).abs().max().item<double>(), 1e-3);
        }
      }
    }
  }
}

inline Guard guard_of(int rank) {
  return {.fingerprint = 77,
          .flags = 1u << (rank % 5),
          .loss = 0.1 * (rank + 1),
          .weight = rank + 3.0,
          .squares = 0.3f * static_cast<float>(rank + 1),
          .tokens = 10};
}

// The guard's floats round; all ranks must see the same bits all the same.
inline void guards_are_equal(Communicator& comm) {
  const int p = comm.size(), r = comm.rank();
  for (const Algorithm algorithm : kAlgorithms) {
    for (const std::int64_t n : {0L, 1L, 5000L, 400'000L}) {
      SCOPED_TRACE(label(algorithm, Codec::kFp32, p, n));
      at::Tensor x = floats(n);
      ReducerOptions options{.buckets = {}, .algorithm = algorithm};
      if (n > 1) options.buckets = {{n / 3, n - n / 3}, {0, n / 3}};
      if (n == 1) options.buckets = {{0, 1}};
      const auto reducer = make_reducer(comm, x, options);
      for (std::uint64_t step = 5; step < 8; ++step) {
        fill_coded(x, r);
        Guard guard = guard_of(r);
        reducer->begin(step);
        if (n > 1 && r % 2 == 0) reducer->ready(0);
        const ExchangeStats stats = reducer->finish(guard);
        ASSERT_TRUE(is_coded_sum(x, p));
        ASSERT_EQ(guard.fingerprint, 77u);
        ASSERT_EQ(guard.flags, p >= 5 ? 31u : (1u << p) - 1);
        ASSERT_DOUBLE_EQ(guard.loss, 0.1 * p * (p + 1) / 2);
        ASSERT_EQ(guard.weight, 3.0 * p + p * (p - 1) / 2.0);
        ASSERT_FLOAT_EQ(guard.squares,
                        0.3f * static_cast<float>(p * (p + 1) / 2));
        ASSERT_EQ(guard.tokens, 10u * static_cast<unsigned>(p));
        agree(comm, "guard",
              hash128(std::as_bytes(std::span(&guard, 1))).hex());
        if (algorithm == Algorithm::kTwoLevel) continue;
        const ByteCount want = exchange_bytes(options, p, r);
        ASSERT_EQ(stats.bytes_sent, want.sent);
        ASSERT_EQ(stats.bytes_received, want.received);
      }
    }
  }
}

// Many small tensors, buckets named in any order by other threads
// while something else computes.
inline void small_tensors_under_load(Communicator& comm, int exchanges) {
  constexpr int kTensors = 500, kBuckets = 25, kEach = 8 * 64;
  const int p = comm.size(), r = comm.rank();
  const std::int64_t n = kTensors * kEach, each = n / kBuckets;
  at::Tensor x = floats(n);
  ReducerOptions options;
  for (int i = kBuckets; i-- > 0;) options.buckets.push_back({i * each, each});
  const auto reducer = make_reducer(comm, x, options);
  std::vector<int> order(kBuckets);
  for (int i = 0; i < kBuckets; ++i) order[static_cast<std::size_t>(i)] = i;
  std::uint64_t dice = 1234567u + static_cast<unsigned>(r);
  for (int e = 0; e < exchanges; ++e) {
    const bool checked = e % 50 == 0;
    if (checked)
      fill_coded(x, r);
    else
      x.zero_();
    for (std::size_t i = order.size(); i-- > 1;) {
      dice = dice * 6364136223846793005u + 1442695040888963407u;
      std::swap(order[i], order[(dice >> 33) % (i + 1)]);
    }
    reducer->begin(static_cast<std::uint64_t>(e));
    const auto half = order.begin() + kBuckets / 2;
    const auto name = [&](auto from, auto to) {
      for (; from != to; ++from)
        reducer->ready(static_cast<std::size_t>(*from));
    };
    if (e % 100 == 0) {
      std::jthread other([&] { name(order.begin(), half); });
      name(half, order.end() - e % 2);
    } else {
      name(order.begin(), order.end());
    }
    Guard guard{.fingerprint = static_cast<std::uint32_t>(e), .tokens = 1};
    reducer->finish(guard);
    ASSERT_EQ(guard.tokens, static_cast<unsigned>(p)) << "exchange " << e;
    if (checked) {
      ASSERT_TRUE(is_coded_sum(x, p)) << "exchange " << e;
    }
  }
}

// Messages by tag, whatever their order; what no receive takes is seen.
inline void tags_are_matched(Communicator& comm) {
  if (comm.size() == 1) return;
  const int p = comm.size(), r = comm.rank();
  const int to = (r + 1) % p, from = (r + p - 1) % p;
  const auto transport = comm.open_transport();
  ASSERT_EQ(std::ssize(transport->hosts()), p);
  EXPECT_LE(transport->hosts()[static_cast<std::size_t>(r)], r);
  const std::array<int, 2> out{r, -r};
  std::array<int, 2> in{};
  const auto bytes = [](auto& number) {
    return std::as_writable_bytes(std::span(&number, 1));
  };
  const auto land = [&](Ticket& ticket, MessageTag tag) {
    MessageResult result;
    while (!transport->poll(ticket, result)) transport->rest({});
    EXPECT_EQ(result.status, MessageResult::Status::kDone);
    if (ticket.receives) {
      EXPECT_EQ(result.tag, tag);
      EXPECT_EQ(result.bytes, sizeof(int));
    }
  };
  Ticket later = transport->receive(from, 9, bytes(in[1]));
  Ticket first_sent =
      transport->send(to, 5, std::as_bytes(std::span(&out[0], 1)));
  Ticket second_sent =
      transport->send(to, 9, std::as_bytes(std::span(&out[1], 1)));
  land(later, 9);
  EXPECT_EQ(in[1], -from);
  MessageTag tag = 0;
  EXPECT_TRUE(transport->stray(from, tag));
  EXPECT_EQ(tag, 5u);
  Ticket earlier = transport->receive(from, 5, bytes(in[0]));
  land(earlier, 5);
  EXPECT_EQ(in[0], from);
  EXPECT_FALSE(transport->stray(from, tag));
  land(first_sent, 0);
  land(second_sent, 0);
}

// One rank is an exchange ahead: told at once, on a group of its own, because
// it is unusable afterwards.
inline void out_of_step_is_told(Communicator& comm) {
  if (comm.size() == 1) return;
  const auto group = comm.split(0, comm.rank());
  std::string mine;
  try {
    at::Tensor x = at::zeros({300});
    const auto reducer = make_reducer(*group, x, {.buckets = {{0, 300}}});
    const std::uint64_t ahead = comm.rank() == 1 ? 1 : 0;
    for (std::uint64_t i = 0; i < 3; ++i) {
      Guard guard;
      reducer->begin(i + ahead);
      reducer->finish(guard);
    }
  } catch (const CommError& error) {
    mine = error.what();
  }
  EXPECT_THAT(mine, HasSubstr("exchange "));
  std::string all;
  for (const auto& text :
       comm.all_gather_v(std::as_bytes(std::span(mine.data(), mine.size())))) {
    all.append(reinterpret_cast<const char*>(text.data()), text.size());
  }
  EXPECT_THAT(all, HasSubstr("the ranks do not make the same calls: rank "));
}

struct Case {
  const char* name;
  void (*check)(Communicator&);
};

inline constexpr Case kCases[] = {
    {"SumsAreExact", sums_are_exact},
    {"BitsAreEqual", bits_are_equal},
    {"RestsKeepTheSum", rests_keep_the_sum},
    {"GuardsAreEqual", guards_are_equal},
    {"TagsAreMatched", tags_are_matched},
    {"OutOfStepIsTold", out_of_step_is_told},
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace thinwire::engine_suite
