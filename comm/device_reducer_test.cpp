// The reducers of device vectors, against the fakes of comm/fake_ranks.h.
#include "comm/device_reducer.h"

#include <latch>

#include "comm/fake_ranks.h"

namespace thinwire {
namespace {

using fake::Job;
using fake::Rank;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::size_t kCount = 1000;

ReducerOptions plan(bool overlap = true) {
  ReducerOptions options;
  // Not in the order of the vector: the last entries are final first.
  options.buckets = {{600, 400}, {0, 350}, {350, 250}};
  options.overlap = overlap;
  return options;
}

enum class Kind { kNccl, kStaged };

std::unique_ptr<Reducer> make(Kind kind, Rank& rank, at::Tensor& vector,
                              ReducerOptions options = plan()) {
  if (kind == Kind::kNccl) {
    return make_nccl_reducer(rank.cuda, rank.nccl, rank.comm, vector,
                             std::move(options));
  }
  return make_staged_reducer(rank.cuda, rank.comm, vector, std::move(options));
}

// One exchange: a kernel per bucket writes what the rank has to give, and each
// bucket is announced at once, long before its kernel has run.
ExchangeStats exchange(Rank& rank, Reducer& reducer, std::vector<float>& data,
                       std::uint64_t sequence, Guard& guard,
                       std::size_t announce = 3) {
  const auto factor = static_cast<float>((rank.comm.rank() + 1) *
                                         static_cast<int>(sequence % 5 + 1));
  reducer.begin(sequence);
  const auto buckets = plan().buckets;
  for (std::size_t b = 0; b < buckets.size(); ++b) {
    const Bucket bucket = buckets[b];
    rank.gpu.compute([&data, bucket, factor] {
      for (std::int64_t i = 0; i < bucket.count; ++i) {
        const auto at = static_cast<std::size_t>(bucket.offset + i);
        data[at] = factor * static_cast<float>(at % 13);
      }
    });
    if (b < announce) reducer.ready(b);
  }
  return reducer.finish(guard);
}

void expect_sums(const std::vector<float>& data, int ranks,
                 std::uint64_t sequence) {
  const int factor =
      ranks * (ranks + 1) / 2 * static_cast<int>(sequence % 5 + 1);
  for (std::size_t i = 0; i < data.size(); ++i) {
    ASSERT_EQ(data[i], static_cast<float>(factor * static_cast<int>(i % 13)))
        << i;
  }
}

Guard guard_of(const Rank& rank, std::uint32_t fingerprint = 77) {
  return {.fingerprint = fingerprint,
          .flags = 1u << (8 + rank.comm.rank()),
          .loss = 1.5 * (rank.comm.rank() + 1),
          .weight = 2,
          .squares = 4,
          .tokens = 10};
}

class DeviceReducer : public testing::TestWithParam<Kind> {};

TEST_P(DeviceReducer, SumsBucketsAndGuards) {
  const Kind kind = GetParam();
  for (const int ranks : {1, 2, 3, 4}) {
    for (const bool overlap : {true, false}) {
      Job job{.ranks = ranks, .one_gpu = kind == Kind::kStaged, .wires = {}};
      const auto outcomes = job.run([&](Rank& rank) {
        std::vector<float> data(kCount);
        at::Tensor vector = fake::device_tensor(data, at::kFloat);
        const auto reducer = make(kind, rank, vector, plan(overlap));
        for (std::uint64_t sequence = 40; sequence < 44; ++sequence) {
          Guard guard = guard_of(rank);
          // Also with buckets that finish() itself has to announce.
          const ExchangeStats stats =
              exchange(rank, *reducer, data, sequence, guard, sequence % 4);
          expect_sums(data, ranks, sequence);
          EXPECT_EQ(guard.fingerprint, 77u);
          EXPECT_EQ(guard.flags, ((1u << ranks) - 1) << 8);
          EXPECT_EQ(guard.loss, 1.5 * ranks * (ranks + 1) / 2);
          EXPECT_EQ(guard.weight, 2 * ranks);
          EXPECT_EQ(guard.squares, 4 * ranks);
          EXPECT_EQ(guard.tokens, 10u * static_cast<unsigned>(ranks));
          EXPECT_EQ(stats.bytes_sent > 0, ranks > 1);
          EXPECT_GE(stats.bytes_received, ranks > 1 ? 4000 / ranks : 0);
        }
      });
      for (const auto& outcome : outcomes) {
        EXPECT_EQ(outcome.error, "");
        fake::expect_clean(outcome);
        EXPECT_EQ(outcome.count("ncclCommAbort"), 0);
      }
    }
  }
}

TEST_P(DeviceReducer, DifferentFingerprintsNameTheRanks) {
  for (const bool overlap : {true, false}) {
    Job job{.ranks = 3, .wires = {}};
    for (const auto& outcome : job.run([&](Rank& rank) {
           std::vector<float> data(kCount);
           at::Tensor vector = fake::device_tensor(data, at::kFloat);
           const auto reducer = make(GetParam(), rank, vector, plan(overlap));
           Guard guard = guard_of(rank, rank.comm.rank() == 1 ? 5 : 77);
           exchange(rank, *reducer, data, 7, guard);
         })) {
      EXPECT_THAT(outcome.error,
                  AllOf(HasSubstr("rank 1 with '00000005'"),
                        HasSubstr("2 of 3 ranks have '0000004d'")));
      fake::expect_clean(outcome);
      if (!overlap) {
        EXPECT_EQ(outcome.count("ncclAllReduce"), 0);
      }
    }
  }
}

TEST_P(DeviceReducer, MayBeLeftWithinAnExchange) {
  for (const bool overlap : {true, false}) {
    Job job{.ranks = 2, .one_gpu = GetParam() == Kind::kStaged, .wires = {}};
    for (const auto& outcome : job.run([&](Rank& rank) {
           std::vector<float> data(kCount);
           at::Tensor vector = fake::device_tensor(data, at::kFloat);
           const auto reducer = make(GetParam(), rank, vector, plan(overlap));
           reducer->begin(3);
           reducer->ready(1);
           reducer->ready(0);
         })) {
      EXPECT_EQ(outcome.error, "");
      fake::expect_clean(outcome);
      EXPECT_EQ(outcome.count("ncclCommFinalize"), 0);
    }
  }
}

TEST_P(DeviceReducer, EveryCallMayFail) {
  for (const int ranks : {1, 2}) {
    for (const bool overlap : {true, false}) {
      fake::sweep_faults(ranks, [&](Rank& rank) {
        std::vector<float> data(kCount);
        at::Tensor vector = fake::device_tensor(data, at::kFloat);
        const auto reducer = make(GetParam(), rank, vector, plan(overlap));
        Guard guard = guard_of(rank);
        exchange(rank, *reducer, data, 1, guard, 2);
        rank.comm.barrier();  // a failure after the sums is felt here
      });
    }
  }
}

TEST_P(DeviceReducer, RefusesOtherVectorsAndPlans) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([&](Rank& rank) {
    std::vector<float> data(kCount);
    at::Tensor host = at::from_blob(data.data(), {kCount});
    EXPECT_THROW(make(GetParam(), rank, host), InternalError);
    at::Tensor vector = fake::device_tensor(data, at::kFloat);
    ReducerOptions gap = plan();
    gap.buckets.pop_back();
    EXPECT_THROW(make(GetParam(), rank, vector, gap), InternalError);
    const auto reducer = make(GetParam(), rank, vector);
    reducer->begin(1);
    reducer->ready(0);
    EXPECT_THROW(reducer->ready(0), InternalError);
    EXPECT_THROW(reducer->ready(3), InternalError);
    EXPECT_THROW(reducer->begin(2), InternalError);
  })[0];
  fake::expect_clean(outcome);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceReducer,
                         testing::Values(Kind::kNccl, Kind::kStaged),
                         [](const auto& info) {
                           return info.param == Kind::kNccl ? "Nccl" : "Staged";
                         });

TEST(NcclReducer, CallsInOrder) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    rank.gpu.enqueue_polls = 0;
    std::vector<float> data(kCount);
    at::Tensor vector = fake::device_tensor(data, at::kFloat);
    const auto reducer = make(Kind::kNccl, rank, vector, plan(false));
    const std::size_t before = rank.gpu.history().size();
    Guard guard;
    exchange(rank, *reducer, data, 1, guard);
    auto history = rank.gpu.history();
    history.erase(history.begin(),
                  history.begin() + static_cast<std::ptrdiff_t>(before));
    EXPECT_THAT(
        history,
        ElementsAre("cudaEventRecord e5 compute", "cudaEventRecord e6 compute",
                    "cudaEventRecord e7 compute",  // all final
                    "cudaStreamWaitEvent side e5", "cudaSetDevice",
                    "ncclAllReduce side 400", "cudaStreamWaitEvent side e6",
                    "cudaSetDevice", "ncclAllReduce side 350",
                    "cudaStreamWaitEvent side e7", "cudaSetDevice",
                    "ncclAllReduce side 250", "cudaEventRecord e4 side",
                    "cudaStreamWaitEvent compute e4"));
  })[0];
  EXPECT_EQ(outcome.error, "");
}

// The first bucket is with NCCL before the others are final, and they go in
// the agreed order, whatever order they become final in.
TEST(NcclReducer, StartsWhileTheCallerStillComputes) {
  Job job{.ranks = 2, .wires = {}};
  for (const auto& outcome : job.run([](Rank& rank) {
         std::vector<float> data(kCount, 1.0f);
         at::Tensor vector = fake::device_tensor(data, at::kFloat);
         const auto reducer = make(Kind::kNccl, rank, vector);
         reducer->begin(9);
         reducer->ready(0);
         rank.gpu.await("ncclAllReduce", 1);
         reducer->ready(2);
         reducer->ready(1);
         rank.gpu.await("ncclAllReduce", 3);
         Guard guard;
         reducer->finish(guard);
         EXPECT_EQ(data[5], 2.0f);
         std::vector<std::string> sent;
         for (const auto& call : rank.gpu.history()) {
           if (call.starts_with("ncclAllReduce")) sent.push_back(call);
         }
         EXPECT_THAT(sent, ElementsAre("ncclAllReduce side 400",
                                       "ncclAllReduce side 350",
                                       "ncclAllReduce side 250"));
       })) {
    EXPECT_EQ(outcome.error, "");
  }
}

TEST(NcclReducer, AnotherExchangeOrPlanEndsBeforeAnythingStarts) {
  for (const bool overlap : {true, false}) {
    for (const bool other_plan : {true, false}) {
      Job job{.ranks = 3, .wires = {}};
      for (const auto& outcome : job.run([&](Rank& rank) {
             const bool odd = rank.comm.rank() == 2;
             std::vector<float> data(kCount);
             at::Tensor vector = fake::device_tensor(data, at::kFloat);
             ReducerOptions options = plan(overlap);
             if (odd && other_plan)
               std::swap(options.buckets[1], options.buckets[2]);
             const auto reducer = make(Kind::kNccl, rank, vector, options);
             Guard guard;
             exchange(rank, *reducer, data, odd && !other_plan ? 12 : 11,
                      guard);
           })) {
        EXPECT_THAT(outcome.error,
                    AllOf(HasSubstr("'grads' of exchange 1"),
                          HasSubstr("differs between ranks: rank 2 with")));
        EXPECT_EQ(outcome.count("ncclAllReduce"), 0);
        fake::expect_clean(outcome);
      }
    }
  }
}

TEST(NcclReducer, AnErrorInFlightNamesTheExchange) {
  for (const bool overlap : {true, false}) {
    Job job{.ranks = 2, .wires = {}};
    const auto outcomes = job.run([&](Rank& rank) {
      std::vector<float> data(kCount);
      at::Tensor vector = fake::device_tensor(data, at::kFloat);
      const auto reducer = make(Kind::kNccl, rank, vector, plan(overlap));
      if (rank.comm.rank() == 1) rank.gpu.fails_asynchronously_at = 5;
      for (std::uint64_t sequence = 1; sequence < 4; ++sequence) {
        Guard guard;
        exchange(rank, *reducer, data, sequence, guard);
      }
    });
    EXPECT_THAT(outcomes[1].error,
                AllOf(HasSubstr("nccl all_reduce 'grads' bucket 1 of exchange "
                                "2 on rank 1 of 2"),
                      HasSubstr("remote process exited")));
    for (const auto& outcome : outcomes) {
      EXPECT_NE(outcome.error, "");
      EXPECT_EQ(outcome.count("ncclCommAbort"), 1);
      fake::expect_clean(outcome);
    }
  }
}

TEST(NcclReducer, EndsWhenTheDevicesDoNot) {
  for (const bool overlap : {true, false}) {
    Job job{.ranks = 2, .timeout_seconds = 0.1, .wires = {}};
    job.wires.stuck = true;
    job.wires.hears_aborts = false;
    for (const auto& outcome : job.run([&](Rank& rank) {
           std::vector<float> data(kCount);
           at::Tensor vector = fake::device_tensor(data, at::kFloat);
           const auto reducer = make(Kind::kNccl, rank, vector, plan(overlap));
           Guard guard;
           exchange(rank, *reducer, data, 1, guard);
         })) {
      EXPECT_THAT(outcome.error, AllOf(HasSubstr("of exchange 1"),
                                       HasSubstr("timed out after 0.1 s"),
                                       HasSubstr("all ranks answer")));
      EXPECT_EQ(outcome.count("ncclCommAbort"), 1);
      fake::expect_clean(outcome);
    }
  }
}

// It waits on the host, before its guard is exchanged: the host knows its name.
TEST(NcclReducer, NamesTheRankThatDoesNotFinish) {
  for (const bool overlap : {true, false}) {
    Job job{.ranks = 2, .timeout_seconds = 0.1, .wires = {}};
    job.wires.hears_aborts = false;
    std::latch over(1);
    const auto outcomes = job.run([&](Rank& rank) {
      std::vector<float> data(kCount);
      at::Tensor vector = fake::device_tensor(data, at::kFloat);
      const auto reducer = make(Kind::kNccl, rank, vector, plan(overlap));
      if (rank.comm.rank() == 1) {
        reducer->begin(1);
        return over.wait();
      }
      try {
        Guard guard;
        exchange(rank, *reducer, data, 1, guard);
      } catch (const CommError&) {
        over.count_down();
        throw;
      }
    });
    EXPECT_THAT(outcomes[0].error, HasSubstr("rank 0 waited for rank 1"));
    EXPECT_EQ(outcomes[0].count("ncclCommAbort"), 1);
    for (const auto& outcome : outcomes) fake::expect_clean(outcome);
  }
}

TEST(NcclReducer, LeavesCodecsToTheHost) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    std::vector<float> data(kCount);
    at::Tensor vector = fake::device_tensor(data, at::kFloat);
    ReducerOptions options = plan();
    options.buckets[1].codec = Codec::kInt8;
    make(Kind::kNccl, rank, vector, options);
  })[0];
  EXPECT_THAT(outcome.error, HasSubstr("codec int8 is made on the host"));
}

TEST(StagedReducer, CallsInOrder) {
  Job job{.ranks = 1, .wires = {}};
  const auto outcome = job.run([](Rank& rank) {
    std::vector<float> data(kCount);
    at::Tensor vector = fake::device_tensor(data, at::kFloat);
    const auto reducer = make(Kind::kStaged, rank, vector);
    const std::size_t before = rank.gpu.history().size();
    Guard guard;
    reducer->begin(1);
    reducer->ready(1);
    reducer->ready(2);
    reducer->finish(guard);
    auto history = rank.gpu.history();
    history.erase(history.begin(),
                  history.begin() + static_cast<std::ptrdiff_t>(before));
    EXPECT_THAT(
        history,
        ElementsAre("cudaEventRecord e5 compute", "cudaStreamWaitEvent side e5",
                    "cudaMemcpyAsync side", "cudaLaunchHostFunc side",
                    "cudaEventRecord e6 compute", "cudaStreamWaitEvent side e6",
                    "cudaMemcpyAsync side", "cudaLaunchHostFunc side",
                    "cudaEventRecord e4 compute", "cudaStreamWaitEvent side e4",
                    "cudaMemcpyAsync side", "cudaLaunchHostFunc side",
                    "cudaEventRecord e3 side",  // all are in host memory
                    "cudaMemcpyAsync side", "cudaEventRecord e3 side",
                    "cudaStreamWaitEvent compute e3"));
  })[0];
  EXPECT_EQ(outcome.error, "");
}

TEST(StagedReducer, EndsWhenACopyDoesNot) {
  Job job{.ranks = 1, .timeout_seconds = 0.05, .wires = {}};
  std::vector<float> data(kCount);
  const auto outcome = job.run([&](Rank& rank) {
    at::Tensor vector = fake::device_tensor(data, at::kFloat);
    const auto reducer =
        make_staged_reducer(rank.cuda, rank.comm, vector, plan(), 0.05);
    rank.gpu.block();
    Guard guard;
    exchange(rank, *reducer, data, 8, guard);
  })[0];
  EXPECT_THAT(outcome.error,
              HasSubstr("exchange 8 through host memory on rank 0 of 1 (GPU "
                        "0): copying to the host timed out after 0.1 s"));
  EXPECT_EQ(outcome.count("cudaFreeHost"), 0);  // a copy may still write there
}

TEST(DeviceExchange, MakesTheReducerOfItsChoice) {
  for (const bool one_gpu : {false, true}) {
    Job job{.ranks = 2, .one_gpu = one_gpu, .wires = {}};
    for (const auto& outcome : job.run([&](Rank& rank) {
           std::vector<float> data(kCount);
           at::Tensor vector = fake::device_tensor(data, at::kFloat);
           const auto reducer = make_device_reducer(
               rank.cuda, rank.nccl, rank.comm, vector, plan(), "auto");
           Guard guard;
           exchange(rank, *reducer, data, 2, guard);
           expect_sums(data, 2, 2);
         })) {
      EXPECT_EQ(outcome.error, "");
      EXPECT_EQ(outcome.count("cudaHostAlloc"), one_gpu ? 1 : 0);
      EXPECT_EQ(outcome.count("ncclAllReduce"), one_gpu ? 0 : 3);
    }
  }
}

}  // namespace
}  // namespace thinwire
