// The engine with ranks as threads, and what goes wrong between them.
#include <chrono>
#include <cstdlib>
#include <stop_token>
#include <tuple>

#include "comm/engine_suite.h"
#include "comm/threads.h"

namespace thinwire {
namespace {

using namespace engine_suite;  // NOLINT: this file is its instance

class EngineSuite : public testing::TestWithParam<std::tuple<Case, int>> {};

// On one host, and on made-up ones.
TEST_P(EngineSuite, Holds) {
  const auto& [one_case, ranks] = GetParam();
  run_ranks(ranks, one_case.check);
  if (ranks < 3) return;
  std::vector<int> hosts;
  for (int r = 0; r < ranks; ++r) hosts.push_back(r < 2 ? 0 : r - r % 2);
  run_ranks(ranks, one_case.check, hosts);
}

INSTANTIATE_TEST_SUITE_P(Threads, EngineSuite,
                         testing::Combine(testing::ValuesIn(kCases),
                                          testing::Range(1, 9)),
                         [](const auto& param) {
                           return std::string(std::get<0>(param.param).name) +
                                  "With" +
                                  std::to_string(std::get<1>(param.param));
                         });

TEST(Engine, SmallTensorsUnderLoad) {
  std::jthread load([](const std::stop_token& stop) {
    volatile double x = 0;
    while (!stop.stop_requested()) x = x + 1;
  });
  const int longer = std::getenv("THINWIRE_LONG") != nullptr ? 10 : 1;
  run_ranks(2, [&](Communicator& comm) {
    small_tensors_under_load(comm, 10'000 * longer);
  });
}

// Each rank's text where body throws CommError.
template <class Body>
std::vector<std::string> texts_of(int ranks, Body body) {
  std::vector<std::string> texts(static_cast<std::size_t>(ranks));
  try {
    run_ranks(ranks, [&](Communicator& comm) {
      try {
        body(comm);
      } catch (const CommError& error) {
        texts[static_cast<std::size_t>(comm.rank())] = error.what();
        throw;
      }
    });
    ADD_FAILURE() << "no error";
  } catch (const CommError&) {
  }
  return texts;
}

struct Exchange {
  at::Tensor x;
  std::unique_ptr<Reducer> reducer;
  Exchange(Communicator& comm, std::int64_t n, Algorithm algorithm)
      : x(at::zeros({n})),
        reducer(make_reducer(comm, x,
                             {.buckets = {{n / 2, n - n / 2}, {0, n / 2}},
                              .algorithm = algorithm})) {}
  void run(std::uint64_t sequence, std::uint32_t fingerprint = 7) {
    Guard guard{.fingerprint = fingerprint};
    reducer->begin(sequence);
    reducer->ready(0);
    reducer->finish(guard);
  }
};

// Step 3 of rank 2 is another step's; all end in that same exchange, naming it.
TEST(Engine, AnotherFingerprintIsNamedInTheSameExchange) {
  for (const Algorithm algorithm : kAlgorithms) {
    for (const int p : {3, 5, 8}) {
      const auto texts = texts_of(p, [&](Communicator& comm) {
        Exchange exchange(comm, 5000, algorithm);
        for (std::uint32_t i = 0; i < 4; ++i) {
          exchange.run(i, comm.rank() == 2 && i == 3 ? 99 : i);
        }
        ADD_FAILURE() << "rank " << comm.rank() << " saw nothing";
      });
      for (const std::string& text : texts) {
        EXPECT_THAT(text, HasSubstr("fingerprint of exchange 3"));
        EXPECT_THAT(text, HasSubstr("rank 2 with "));
      }
    }
  }
}

TEST(Engine, AnotherSizeIsRefused) {
  for (const Algorithm algorithm : kAlgorithms) {
    const auto texts = texts_of(4, [&](Communicator& comm) {
      Exchange exchange(comm, comm.rank() == 1 ? 5008 : 5000, algorithm);
      exchange.run(0);
    });
    EXPECT_THAT(texts,
                testing::Contains(HasSubstr("do not pass the same size")));
    EXPECT_THAT(texts, testing::Each(HasSubstr("exchange 0, bucket ")));
  }
}

// Rank 1 leaves an exchange out, or makes one too many.
TEST(Engine, RanksOutOfStepAreNamed) {
  for (const Algorithm algorithm : kAlgorithms) {
    for (const std::uint64_t skip : {0u, 1u}) {
      const auto begin = SteadyClock::now();
      const auto texts = texts_of(4, [&](Communicator& comm) {
        comm.set_default_timeout_seconds(100);
        Exchange exchange(comm, 200, algorithm);
        const std::uint64_t own = comm.rank() == 1 ? skip : 1 - skip;
        for (std::uint64_t i = 1023; i < 1026; ++i) {
          exchange.run(i);
        }
        exchange.run(1026 + own);
        exchange.run(1027 + own);
      });
      EXPECT_LT(SteadyClock::now() - begin, std::chrono::seconds(50));
      EXPECT_THAT(texts, testing::Contains(testing::AllOf(
                             HasSubstr("do not make the same calls"),
                             HasSubstr("rank 1"), HasSubstr("exchange 1026"),
                             HasSubstr("exchange 1027"))));
    }
  }
}

TEST(Engine, ALateRankIsNamedWithTheBucket) {
  const auto texts = texts_of(3, [&](Communicator& comm) {
    Exchange exchange(comm, 4000, Algorithm::kRing);
    exchange.run(41);
    comm.set_default_timeout_seconds(0.3);
    if (comm.rank() != 2) exchange.run(42);
    // Rank 2 is there, but not in the exchange, until the others have ended.
    comm.barrier({.timeout_seconds = 50});
  });
  EXPECT_THAT(texts, testing::Contains(testing::AllOf(
                         HasSubstr("exchange 42, bucket "),
                         HasSubstr("timed out after 0.3 s: rank "),
                         HasSubstr(" waited for rank 2"))));
}

TEST(Engine, TheLibraryIsForMpi) {
  run_ranks(2, [](Communicator& comm) {
    at::Tensor x = at::zeros({10});
    EXPECT_THROW(
        comm.all_reduce(x, ReduceOp::kSum, {.algorithm = Algorithm::kMpi}),
        UsageError);
    EXPECT_THROW(
        make_reducer(comm, x,
                     {.buckets = {{0, 10}}, .algorithm = Algorithm::kMpi}),
        UsageError);
    EXPECT_THROW(comm.all_reduce(x, ReduceOp::kMax, {.codec = Codec::kBf16}),
                 UsageError);
  });
}

}  // namespace
}  // namespace thinwire
