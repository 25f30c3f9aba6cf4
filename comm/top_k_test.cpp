#include "comm/top_k.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"
#include "comm/threads.h"

namespace thinwire {
namespace {

constexpr std::int64_t kCount = 1000;

void fill(at::Tensor& x, int rank, int step) {
  fill_normal(x.data_ptr<float>(), x.numel(), 9,
              std::to_string(rank) + " " + std::to_string(step), 1.0f);
}

TEST(TopK, SendsTheLargestAndKeepsTheRest) {
  for (const int p : {1, 2, 5}) {
    run_ranks(p, [&](Communicator& comm) {
      at::Tensor x = at::zeros({kCount}), rest = at::zeros({kCount});
      const auto reducer = make_top_k_reducer(
          comm, x, {.buckets = {{0, kCount}}, .residual = &rest}, 0.05);
      // What each rank has given and not yet sent, worked out beside.
      std::vector<std::vector<float>> waits(static_cast<std::size_t>(p),
                                            std::vector<float>(kCount));
      for (int step = 0; step < 4; ++step) {
        std::vector<float> want(kCount);
        for (int r = 0; r < p; ++r) {
          auto& wait = waits[static_cast<std::size_t>(r)];
          at::Tensor given = at::zeros({kCount});
          fill(given, r, step);
          for (std::size_t i = 0; i < kCount; ++i) {
            wait[i] += given.const_data_ptr<float>()[i];
          }
          for (int n = 0; n < 50; ++n) {
            std::size_t most = 0;
            for (std::size_t i = 1; i < kCount; ++i) {
              if (std::fabs(wait[i]) > std::fabs(wait[most])) most = i;
            }
            want[most] += wait[most];
            wait[most] = 0;
          }
        }
        fill(x, comm.rank(), step);
        Guard guard{.fingerprint = 5, .weight = 2};
        reducer->begin(static_cast<std::uint64_t>(step));
        const ExchangeStats stats = reducer->finish(guard);
        EXPECT_EQ(guard.weight, 2 * p);
        EXPECT_EQ(stats.bytes_sent, (p - 1) * (8 * 50 + 40));
        const float* got = x.const_data_ptr<float>();
        const float* left = rest.const_data_ptr<float>();
        const auto& wait = waits[static_cast<std::size_t>(comm.rank())];
        for (std::size_t i = 0; i < kCount; ++i) {
          ASSERT_EQ(got[i], want[i]) << "step " << step << ", " << i;
          ASSERT_EQ(left[i], wait[i]) << "step " << step << ", " << i;
        }
      }
    });
  }
}

TEST(TopK, WhatIsNotFiniteIsSent) {
  run_ranks(3, [](Communicator& comm) {
    at::Tensor x = at::zeros({kCount}), rest = at::zeros({kCount});
    const auto reducer = make_top_k_reducer(
        comm, x, {.buckets = {{0, kCount}}, .residual = &rest}, 0.01);
    fill(x, comm.rank(), 0);
    if (comm.rank() == 1) x.data_ptr<float>()[700] = std::nanf("");
    if (comm.rank() == 2) {
      x.data_ptr<float>()[3] = -std::numeric_limits<float>::infinity();
    }
    Guard guard;
    reducer->begin(0);
    reducer->finish(guard);
    EXPECT_TRUE(std::isnan(x.const_data_ptr<float>()[700]));
    EXPECT_TRUE(std::isinf(x.const_data_ptr<float>()[3]));
    for (std::int64_t i = 0; i < kCount; ++i) {
      ASSERT_TRUE(std::isfinite(rest.const_data_ptr<float>()[i]));
    }
  });
}

TEST(TopK, RefusesWhatItCannotDo) {
  run_ranks(1, [](Communicator& comm) {
    at::Tensor x = at::zeros({4}), rest = at::zeros({4});
    for (const double density : {0.0, -1.0, 1.5, std::nan("")}) {
      EXPECT_THROW(
          make_top_k_reducer(comm, x, {.buckets = {{0, 4}}, .residual = &rest},
                             density),
          UsageError);
    }
  });
  EXPECT_EQ(top_k_count(10, 0.01), 1);
  EXPECT_EQ(top_k_count(10, 1), 10);
  EXPECT_EQ(top_k_count(0, 0.5), 0);
}

}  // namespace
}  // namespace thinwire
