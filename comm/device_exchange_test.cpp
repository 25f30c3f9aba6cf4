// Which way vectors on GPUs are exchanged, and what is said about it.
#include "comm/device_reducer.h"
#include "comm/fake_ranks.h"

namespace thinwire {
namespace {

using fake::Job;
using fake::Rank;
using testing::HasSubstr;

ReducerOptions plan() {
  ReducerOptions options;
  options.buckets = {{600, 400}, {0, 350}, {350, 250}};
  return options;
}

struct Want {
  std::string_view backend;
  bool one_gpu;
  Codec codec;
  bool nccl;
  std::string_view why, error;
};

TEST(DeviceExchange, IsChosenAndExplained) {
  constexpr Want kWants[] = {
      {"auto", false, Codec::kFp32, true, "by NCCL, 2 GPUs", ""},
      {"nccl", false, Codec::kFp32, true, "by NCCL, 2 GPUs", ""},
      {"mpi", false, Codec::kFp32, false, "comm.backend is mpi", ""},
      {"auto", true, Codec::kFp32, false, "ranks 0 and 1 have the same GPU",
       ""},
      {"auto", false, Codec::kBf16, false, "codec bf16 is made on the host",
       ""},
      {"nccl", true, Codec::kFp32, false, "",
       "comm.backend: nccl cannot be: ranks 0 and 1 have the same GPU"},
      {"nccl", false, Codec::kInt8, false, "", "codec int8"},
      {"self", false, Codec::kFp32, false, "",
       "choose one of: auto, mpi, nccl"},
  };
  for (const Want& want : kWants) {
    SCOPED_TRACE(want.backend);
    Job job{.ranks = 2, .one_gpu = want.one_gpu, .wires = {}};
    for (const auto& outcome : job.run([&](Rank& rank) {
           ReducerOptions options = plan();
           options.buckets[2].codec = want.codec;
           const DeviceChoice choice = choose_device_exchange(
               rank.cuda, rank.comm, 0, want.backend, options);
           EXPECT_EQ(choice.nccl, want.nccl);
           EXPECT_THAT(choice.why, HasSubstr(std::string(want.why)));
         })) {
      EXPECT_THAT(outcome.error, HasSubstr(std::string(want.error)));
      EXPECT_EQ(outcome.error.empty(), want.error.empty());
    }
  }
}

TEST(DeviceExchange, AGpuThatCannotBeUsedIsNoReasonToGoOnWithout) {
  Job job{.ranks = 2, .wires = {}};
  for (const auto& outcome : job.run([&](Rank& rank) {
         if (rank.comm.rank() == 1) {
           rank.gpu.fail("cudaGetDeviceProperties", 1, fake::kBadAddress);
         }
         choose_device_exchange(rank.cuda, rank.comm, 0, "auto", plan());
       })) {
    EXPECT_THAT(outcome.error, HasSubstr("rank 1 cannot use its GPU"));
  }
}

}  // namespace
}  // namespace thinwire
