// Ranks as threads, each with a fake GPU and the fake NCCL.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/from_blob.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/fake_gpu.h"
#include "comm/fake_nccl.h"
#include "comm/threads.h"

namespace thinwire::fake {

// A "device" tensor over host memory, which outlives it; of every stride-th
// element.
template <class T>
at::Tensor device_tensor(std::vector<T>& data, at::ScalarType type,
                         std::int64_t stride = 1) {
  const at::Device device(at::kCUDA, 0);
  const auto size = static_cast<std::int64_t>(data.size());
  return at::for_blob(data.data(), {size / stride})
      .strides({stride})
      .target_device(device)
      .options(at::TensorOptions().dtype(type).device(device))
      .make_tensor();
}

struct Rank {
  Rank(Wires& wires, int number, Communicator& comm)
      : gpu(wires, number), cuda(gpu), nccl(gpu), comm(comm) {}
  Gpu gpu;
  Cuda cuda;
  Nccl nccl;
  Communicator& comm;
  std::string error;  // what body threw
};

// What became of a rank once its part was over.
struct Outcome {
  std::string error;
  std::map<std::string, int> calls;
  std::vector<std::string> history, misuse;
  int alive = 0;
  int count(const std::string& call) const {
    const auto found = calls.find(call);
    return found == calls.end() ? 0 : found->second;
  }
};

struct Job {
  int ranks = 1;
  bool one_gpu = false;  // for all ranks
  double timeout_seconds = 60;
  Wires wires;

  // Runs body on every rank; errors are caught and kept, and do not stop the
  // others. A rank that has failed leaves when all have ended.
  std::vector<Outcome> run(const std::function<void(Rank&)>& body) {
    std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
    std::vector<std::unique_ptr<Rank>> all(outcomes.size());
    try {
      run_ranks(ranks, [&](Communicator& comm) {
        comm.set_default_timeout_seconds(timeout_seconds);
        const auto r = static_cast<std::size_t>(comm.rank());
        all[r] = std::make_unique<Rank>(wires, one_gpu ? 0 : comm.rank(), comm);
        try {
          body(*all[r]);
        } catch (const Error& error) {
          all[r]->error = error.what();
          throw;
        }
      });
    } catch (const Error&) {  // kept above
    }
    for (std::size_t r = 0; r < outcomes.size(); ++r) {
      Gpu& gpu = all[r]->gpu;
      outcomes[r] = {all[r]->error, gpu.calls, gpu.history(), gpu.misuse,
                     gpu.alive()};
    }
    return outcomes;
  }
};

// Nothing was left behind, misused or aborted twice.
inline void expect_clean(const Outcome& outcome) {
  EXPECT_THAT(outcome.misuse, testing::IsEmpty());
  EXPECT_EQ(outcome.alive, 0);
  EXPECT_LE(outcome.count("ncclCommAbort"), 1);
}

// Lets the nth call of every name fail on the last rank in turn, for every call
// that a faultless run makes.
inline void sweep_faults(int ranks, const std::function<void(Rank&)>& body) {
  Job faultless{.ranks = ranks, .wires = {}};
  const auto baseline = faultless.run(body).back();
  ASSERT_EQ(baseline.error, "");
  for (const auto& [name, calls] : baseline.calls) {
    const bool polls =
        name == "cudaEventQuery" || name == "ncclCommGetAsyncError";
    for (int nth = 1; nth <= (polls ? 1 : calls); ++nth) {
      SCOPED_TRACE(name + " number " + std::to_string(nth));
      const int code = name.starts_with("cuda") ? kBadAddress : kSystemError;
      Job broken{.ranks = ranks, .wires = {}};
      const auto outcomes = broken.run([&](Rank& rank) {
        if (rank.comm.rank() == rank.comm.size() - 1) {
          rank.gpu.fail(name, nth, code);
        }
        body(rank);
      });
      for (const Outcome& outcome : outcomes) expect_clean(outcome);
      // The calls of farewells only warn.
      const bool farewell =
          name.ends_with("Destroy") || name.starts_with("cudaFree") ||
          name.ends_with("Finalize") || name.ends_with("Abort");
      const std::string& error = outcomes.back().error;
      if (farewell) {
        EXPECT_EQ(error, "");
        continue;
      }
      EXPECT_THAT(error, testing::HasSubstr(name.starts_with("cuda")
                                                ? "an illegal memory access"
                                                : "unhandled system error"));
      for (const Outcome& outcome : outcomes) EXPECT_NE(outcome.error, "");
    }
  }
}

}  // namespace thinwire::fake
