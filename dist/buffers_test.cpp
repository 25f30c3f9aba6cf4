#include "dist/buffers.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/threads.h"

namespace thinwire {
namespace {

Delta make_delta(int rank, bool per_rank) {
  DeltaBuilder builder;
  const auto at = [&](double base) { return at::full({3}, base + rank); };
  builder.buffer("mean", at(10), BufferRule::kMean);
  builder.buffer("sum", at(20), BufferRule::kSum);
  if (per_rank) builder.buffer("own", at(30), BufferRule::kPerRank);
  builder.buffer("zero", at(40), BufferRule::kRankZero);
  return builder.build();
}

float value(const Delta& delta, const char* name) {
  return delta.buffers().at(name).tensor[2].item<float>();
}

NamedTensors saved_by(int ranks, bool per_rank) {
  NamedTensors saved;
  run_ranks(ranks, [&](Communicator& comm) {
    const Delta delta = make_delta(comm.rank(), per_rank);
    const NamedTensors all = gather_buffers(comm, delta);
    if (comm.rank() == 0) saved = all;
  });
  return saved;
}

TEST(Buffers, AsManyRanksContinueWithTheirOwn) {
  const NamedTensors saved = saved_by(3, true);
  EXPECT_EQ(saved.size(), 9u);
  for (int rank = 0; rank < 3; ++rank) {
    Delta delta = make_delta(7, true);
    restore_buffers(saved, rank, 3, delta, "here");
    EXPECT_EQ(value(delta, "mean"), 10 + rank);
    EXPECT_EQ(value(delta, "sum"), 20 + rank);
    EXPECT_EQ(value(delta, "own"), 30 + rank);
    EXPECT_EQ(value(delta, "zero"), 47);  // the delta's own file has it
  }
}

TEST(Buffers, OtherRanksContinueByTheRule) {
  const NamedTensors saved = saved_by(3, false);
  for (int rank = 0; rank < 2; ++rank) {
    Delta delta = make_delta(7, false);
    restore_buffers(saved, rank, 2, delta, "here");
    EXPECT_EQ(value(delta, "mean"), 11);
    EXPECT_EQ(value(delta, "sum"), rank == 0 ? 63 : 0);
  }
  Delta delta = make_delta(0, true);
  EXPECT_THROW(restore_buffers(saved_by(3, true), 0, 2, delta, "here"),
               UsageError);
}

}  // namespace
}  // namespace thinwire
