// What every communicator must do, as functions that all ranks run. Shared by
// threads_test.cpp (1 to 8 threads) and communicator_mpi_test.cpp (processes).
// Values are small integers, so sums are exact and equality is meant.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "comm/collectives.h"
#include "comm/communicator.h"
#include "comm/reducer.h"

namespace thinwire::suite {

using testing::HasSubstr;

inline constexpr std::int64_t kSizes[] = {
    0, 1, 2, 3, 7, 63, 1000, 4095, 4096, 4097, 16384, 16387, 65537, 300001};

template <class T>
constexpr at::ScalarType kType = at::kFloat;
template <>
inline constexpr at::ScalarType kType<double> = at::kDouble;
template <>
inline constexpr at::ScalarType kType<std::int64_t> = at::kLong;

template <class T>
at::Tensor coded(std::int64_t n, int rank) {
  at::Tensor t = at::empty({n}, at::TensorOptions().dtype(kType<T>));
  T* data = t.data_ptr<T>();
  for (std::int64_t i = 0; i < n; ++i) {
    data[i] = static_cast<T>((i % 251) * (rank + 1) - 100 * rank);
  }
  return t;
}

// What the ranks' texts say where `body` threw CommError; empty if it did not.
template <class Body>
std::string comm_error(Body body) {
  try {
    body();
  } catch (const CommError& error) {
    return error.what();
  }
  return "";
}

inline std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <class T>
void sums_are_exact(Communicator& comm) {
  for (const std::int64_t n : kSizes) {
    at::Tensor x = coded<T>(n, comm.rank());
    const ByteCount before = comm.bytes();
    comm.all_reduce(x, ReduceOp::kSum, {.tag = "sum"});
    const std::int64_t p = comm.size();
    const T* data = x.data_ptr<T>();
    for (std::int64_t i = 0; i < n; ++i) {
      const auto want = static_cast<T>((i % 251) * (p * (p + 1) / 2) -
                                       100 * (p * (p - 1) / 2));
      ASSERT_EQ(data[i], want) << "n = " << n << ", i = " << i;
    }
    EXPECT_EQ(comm.bytes().sent - before.sent,
              all_reduce_bytes_sent(comm.size(), comm.rank(),
                                    n * static_cast<std::int64_t>(sizeof(T)),
                                    sizeof(T)))
        << "n = " << n;
  }
}

inline void extremes(Communicator& comm) {
  for (const std::int64_t n : {5, 20000}) {
    at::Tensor high = coded<float>(n, comm.rank());
    at::Tensor low = high.clone();
    const float nan = std::numeric_limits<float>::quiet_NaN();
    if (comm.rank() == comm.size() - 1) {
      high.data_ptr<float>()[n - 1] = nan;
      low.data_ptr<float>()[n - 1] = nan;
    }
    comm.all_reduce(high, ReduceOp::kMax, {.tag = "max"});
    comm.all_reduce(low, ReduceOp::kMin, {.tag = "min"});
    for (std::int64_t i = 0; i + 1 < n; ++i) {
      float most = -1e9f, least = 1e9f;
      for (int r = 0; r < comm.size(); ++r) {
        const auto v = static_cast<float>((i % 251) * (r + 1) - 100 * r);
        most = std::max(most, v);
        least = std::min(least, v);
      }
      ASSERT_EQ(high.data_ptr<float>()[i], most);
      ASSERT_EQ(low.data_ptr<float>()[i], least);
    }
    EXPECT_TRUE(std::isnan(high.data_ptr<float>()[n - 1]));
    EXPECT_TRUE(std::isnan(low.data_ptr<float>()[n - 1]));
  }
}

// Sums of numbers that do round, infinities and NaN: the same bits everywhere.
inline void same_bits(Communicator& comm) {
  for (const std::int64_t n : {31, 4095, 50001}) {
    at::Tensor x = at::empty({n}, at::TensorOptions().dtype(at::kFloat));
    fill_normal(x.data_ptr<float>(), n, 1,
                "rank " + std::to_string(comm.rank()), 1.0f);
    x.data_ptr<float>()[comm.rank()] = std::numeric_limits<float>::infinity();
    x.data_ptr<float>()[8 + comm.rank()] = std::nanf(comm.rank() ? "1" : "2");
    comm.all_reduce(x, ReduceOp::kSum, {.tag = "bits"});
    const std::span data(x.data_ptr<float>(), static_cast<std::size_t>(n));
    agree(comm, "sum of floats", hash128(std::as_bytes(data)).hex());
  }
}

inline void gathers(Communicator& comm) {
  for (const std::size_t unit : {0ul, 1ul, 1000ul, 2500000ul}) {
    const std::string mine(unit * static_cast<std::size_t>(comm.rank() % 3),
                           static_cast<char>('a' + comm.rank()));
    const auto all = comm.all_gather_v(bytes_of(mine), {.tag = "texts"});
    ASSERT_EQ(all.size(), static_cast<std::size_t>(comm.size()));
    for (int r = 0; r < comm.size(); ++r) {
      const std::string want(unit * static_cast<std::size_t>(r % 3),
                             static_cast<char>('a' + r));
      EXPECT_EQ(text_of(all[static_cast<std::size_t>(r)]) == want, true)
          << "rank " << r << ", unit " << unit;
    }
  }
}

inline void broadcasts(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    for (const std::int64_t n : {0, 1, 1000, 700000}) {
      at::Tensor x = coded<float>(n, comm.rank());
      comm.broadcast(x, root, {.tag = "x"});
      EXPECT_TRUE(x.equal(coded<float>(n, root)));
    }
    const std::string text = "from rank " + std::to_string(root);
    const auto got = comm.broadcast_bytes(
        comm.rank() == root ? bytes_of(text) : bytes_of(""), root);
    EXPECT_EQ(text_of(got), text);
  }
  at::Tensor x = coded<float>(1, 0);
  EXPECT_THROW(comm.broadcast(x, comm.size()), UsageError);
}

// After a barrier everybody has seen what everybody did before it.
inline void barriers(Communicator& comm) {
  for (int i = 0; i < 20; ++i) comm.barrier();
  EXPECT_EQ(comm.bytes().sent, comm.bytes().received);
}

inline void splits(Communicator& comm) {
  const int color = comm.rank() % 2;
  const auto half = comm.split(color, -comm.rank());  // reversed
  const int members = (comm.size() + 1 - color) / 2;
  ASSERT_EQ(half->size(), members);
  EXPECT_EQ(half->rank(), members - 1 - comm.rank() / 2);
  EXPECT_EQ(half->backend(), comm.backend());
  const auto ranks = half->all_gather_v(
      bytes_of(std::string(1, static_cast<char>('0' + comm.rank()))));
  for (int r = 0; r < members; ++r) {
    const int parent_rank = 2 * (members - 1 - r) + color;
    EXPECT_EQ(text_of(ranks[static_cast<std::size_t>(r)]),
              std::to_string(parent_rank));
  }
  // Two groups and their parent, each in its own order of calls.
  at::Tensor x = coded<float>(10, 0);
  for (int i = 0; i <= color; ++i) half->all_reduce(x, ReduceOp::kMax);
  comm.barrier();
  const auto alone = half->split(half->rank(), 0);
  EXPECT_EQ(alone->size(), 1);
  alone->all_reduce(x, ReduceOp::kSum);
  EXPECT_TRUE(x.equal(coded<float>(10, 0)));
}

inline void agrees(Communicator& comm) {
  agree(comm, "layout", "0123");
  agree_ok(comm, "");
  if (comm.size() == 1) {
    EXPECT_THROW(agree_ok(comm, "k is 0"), UsageError);
    return;
  }
  const int odd = comm.size() - 1;
  const std::string text = comm_error(
      [&] { agree(comm, "layout", comm.rank() == odd ? "beef" : "0123"); });
  EXPECT_THAT(text, HasSubstr("layout differs between ranks: rank " +
                              std::to_string(odd) + " with 'beef'"));
  try {
    agree_ok(comm, comm.rank() >= odd ? "a.safetensors: no such file" : "");
    ADD_FAILURE() << "no error";
  } catch (const UsageError& error) {
    EXPECT_EQ(error.what(),
              "[rank " + std::to_string(odd) + "] a.safetensors: no such file");
  }
}

inline void reduces(Communicator& comm) {
  const int p = comm.size(), r = comm.rank();
  for (const std::int64_t k : {0, 10, 16384, 100000}) {
    at::Tensor grads = coded<float>(k, r);
    ReducerOptions options;
    if (k > 0) options.buckets = {{k / 2, k - k / 2}, {0, k / 2}};
    const auto reducer = make_reducer(comm, grads, options);
    for (std::uint64_t step = 0; step < 2; ++step) {
      grads.copy_(coded<float>(k, r));
      Guard guard{.fingerprint = 7,
                  .flags = 1u << r,
                  .loss = 0.25 * r,
                  .weight = 4,
                  .squares = 0.5f,
                  .tokens = r == 0 ? 0xfffffff0u : 20u};
      reducer->begin(step);
      if (k > 0 && r % 2 == 0) reducer->ready(1);
      const ExchangeStats stats = reducer->finish(guard);
      EXPECT_EQ(guard.fingerprint, 7u);
      EXPECT_EQ(guard.flags, (1u << p) - 1);
      EXPECT_EQ(guard.loss, 0.25 * (p * (p - 1) / 2));
      EXPECT_EQ(guard.weight, 4.0 * p);
      EXPECT_EQ(guard.squares, 0.5f * static_cast<float>(p));
      EXPECT_EQ(guard.tokens, p == 1 ? 0xfffffff0u : 0xffffffffu);
      at::Tensor want = coded<float>(k, 0);
      for (int i = 1; i < p; ++i) want.add_(coded<float>(k, i));
      EXPECT_TRUE(grads.equal(want)) << "k = " << k;
      if (k >= 16384) {
        EXPECT_LE(static_cast<double>(stats.bytes_sent),
                  1.02 * 2 * (p - 1) / p * 4 * static_cast<double>(k));
      }
      EXPECT_EQ(stats.bytes_sent > 0, p > 1);
      EXPECT_GE(stats.seconds_blocked, 0);
    }
  }
}

// Runs on a group of its own, because it is unusable afterwards; every rank
// must get a CommError, and the texts of all are returned on all.
template <class Body>
std::vector<std::string> all_fail(Communicator& comm, Body body) {
  const auto group = comm.split(0, comm.rank());
  const std::string mine = comm_error([&] { body(*group); });
  EXPECT_NE(mine, "") << "rank " << comm.rank() << " saw no error";
  std::vector<std::string> texts;
  for (const auto& text : comm.all_gather_v(bytes_of(mine))) {
    texts.push_back(text_of(text));
  }
  return texts;
}

inline void other_sizes_are_refused(Communicator& comm) {
  if (comm.size() == 1) return;
  for (const std::int64_t n : {10, 50000, 1000000}) {
    const auto texts = all_fail(comm, [&](Communicator& group) {
      // One rank alone passes one element more, small and large. Never freed:
      // MPI reads on from a long message that was given up.
      auto& x =
          *new at::Tensor(coded<float>(n + (group.rank() == 1), group.rank()));
      group.all_reduce(x, ReduceOp::kSum, {.tag = "grads"});
      group.barrier();  // who was not among the first to see it
    });
    EXPECT_THAT(texts, testing::Contains(HasSubstr(
                           "all_reduce 'grads': the ranks do not pass the "
                           "same size: rank ")));
  }
}

inline void other_fingerprints_are_refused(Communicator& comm) {
  if (comm.size() == 1) return;
  const auto texts = all_fail(comm, [&](Communicator& group) {
    at::Tensor x = coded<float>(10, group.rank());
    ReducerOptions options;
    options.buckets = {{0, 10}};
    const auto reducer = make_reducer(group, x, options);
    Guard guard{.fingerprint = group.rank() == 1 ? 8u : 7u};
    reducer->begin(3);
    reducer->finish(guard);
  });
  for (const std::string& text : texts) {
    EXPECT_THAT(text, HasSubstr("fingerprint of exchange 3"));
    EXPECT_THAT(text, HasSubstr("rank 1 with "));
  }
}

inline void other_calls_are_refused(Communicator& comm) {
  if (comm.size() == 1) return;
  const auto texts = all_fail(comm, [&](Communicator& group) {
    at::Tensor x = coded<float>(10, group.rank());
    if (group.rank() == 1) group.barrier();  // a call too many
    group.all_reduce(x, ReduceOp::kSum, {.tag = "grads"});
    group.barrier();
  });
  EXPECT_THAT(texts, testing::Contains(
                         HasSubstr("the ranks do not make the same calls")));
}

inline void a_rank_that_never_arrives_is_named(Communicator& comm) {
  if (comm.size() == 1) return;
  const int last = comm.size() - 1;
  const auto group = comm.split(0, comm.rank());
  std::string mine;
  if (comm.rank() != last) {
    mine = comm_error([&] {
      group->barrier({.tag = "start", .timeout_seconds = 0.3});
      group->barrier({.tag = "start", .timeout_seconds = 0.3});
    });
    EXPECT_THAT(mine, HasSubstr("barrier 'start': "));
  }
  const auto texts = comm.all_gather_v(bytes_of(mine));
  std::string all;
  for (const auto& text : texts) all += text_of(text) + "\n";
  EXPECT_THAT(all, HasSubstr("timed out after 0.3 s: rank "));
  EXPECT_THAT(all, HasSubstr(" waited for rank " + std::to_string(last)));
}

struct Case {
  const char* name;
  void (*check)(Communicator&);
};

inline constexpr Case kCases[] = {
    {"SumsFloat32", sums_are_exact<float>},
    {"SumsFloat64", sums_are_exact<double>},
    {"SumsInt64", sums_are_exact<std::int64_t>},
    {"Extremes", extremes},
    {"SameBits", same_bits},
    {"Gathers", gathers},
    {"Broadcasts", broadcasts},
    {"Barriers", barriers},
    {"Splits", splits},
    {"Agrees", agrees},
    {"Reduces", reduces},
    {"OtherSizesAreRefused", other_sizes_are_refused},
    {"OtherFingerprintsAreRefused", other_fingerprints_are_refused},
    {"OtherCallsAreRefused", other_calls_are_refused},
    {"NeverArrives", a_rank_that_never_arrives_is_named},
};

inline void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

}  // namespace thinwire::suite
