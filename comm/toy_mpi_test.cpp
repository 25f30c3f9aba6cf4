// The whole idea in small: a two-layer network whose trainable numbers lie in
// one flat vector. P ranks with b samples each, exchanging only that vector's
// gradient, must train as one rank with P b samples.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/random.h"
#include "comm/communicator.h"
#include "comm/reducer.h"

namespace thinwire {
namespace {

// D inputs, H hidden, C outputs; b samples per rank and step.
constexpr std::int64_t kD = 12, kH = 16, kC = 3, kPerRank = 4;
constexpr std::int64_t kCount = kH * kD + kH + kC * kH + kC;
constexpr int kSteps = 5;
constexpr float kLearningRate = 0.05f;

at::Tensor normal(std::vector<std::int64_t> shape, const std::string& name) {
  at::Tensor t = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
  fill_normal(t.data_ptr<float>(), t.numel(), 5, name, 1.0f);
  return t;
}

// Sum over the samples of the squared error. values [k], x [B, D], y [B, C].
at::Tensor loss_of(const at::Tensor& values, const at::Tensor& x,
                   const at::Tensor& y) {
  std::int64_t offset = 0;
  const auto take = [&](std::vector<std::int64_t> shape) {
    std::int64_t n = 1;
    for (const std::int64_t d : shape) n *= d;
    return values.narrow(0, std::exchange(offset, offset + n), n).view(shape);
  };
  const at::Tensor w1_HD = take({kH, kD}), b1_H = take({kH});
  const at::Tensor w2_CH = take({kC, kH}), b2_C = take({kC});
  const at::Tensor hidden_BH = at::linear(x, w1_HD, b1_H).relu();
  return at::linear(hidden_BH, w2_CH, b2_C).sub(y).square().sum();
}

struct Trained {
  at::Tensor values;
  std::vector<double> losses;  // mean over the global batch, by step
};

// Samples [begin, begin + count) of each global batch of `batch` samples.
Trained train(Communicator& comm, std::int64_t batch, std::int64_t begin,
              std::int64_t count) {
  at::Tensor values = normal({kCount}, "values").mul_(0.3).requires_grad_(true);
  at::Tensor grads = at::zeros_like(values.detach());
  ReducerOptions options;
  options.buckets = {{0, kCount}};
  const auto reducer = make_reducer(comm, grads, options);
  Trained result;
  for (int step = 0; step < kSteps; ++step) {
    const std::string name = "step " + std::to_string(step);
    const at::Tensor x =
        normal({batch, kD}, name + " x").narrow(0, begin, count);
    const at::Tensor y =
        normal({batch, kC}, name + " y").narrow(0, begin, count);
    const at::Tensor loss = loss_of(values, x, y);
    loss.backward();
    grads.copy_(values.grad());
    values.mutable_grad().zero_();

    Guard guard{.loss = loss.item<double>(),
                .weight = static_cast<double>(count)};
    reducer->begin(static_cast<std::uint64_t>(step));
    reducer->ready(0);
    reducer->finish(guard);
    result.losses.push_back(guard.loss / guard.weight);
    values.detach().sub_(grads.div(guard.weight), kLearningRate);
  }
  result.values = values.detach();
  return result;
}

TEST(Toy, RanksTrainAsOneRankWithTheWholeBatch) {
  const auto comm = make_communicator("mpi");
  const auto alone = make_communicator("self");
  const std::int64_t batch = kPerRank * comm->size();
  const Trained shared = train(*comm, batch, kPerRank * comm->rank(), kPerRank);
  const Trained whole = train(*alone, batch, 0, batch);

  // Only the order of the fp32 sums differs.
  const auto apart = [&](const at::Tensor& values) {
    return values.sub(whole.values).norm().item<double>() /
           whole.values.norm().item<double>();
  };
  EXPECT_LE(apart(shared.values), comm->size() == 1 ? 0.0 : 2e-6);
  for (int step = 0; step < kSteps; ++step) {
    const auto s = static_cast<std::size_t>(step);
    EXPECT_NEAR(shared.losses[s], whole.losses[s], 1e-5 * whole.losses[s]);
  }

  // Neither the start nor what one rank learns alone would have passed.
  EXPECT_GT(apart(normal({kCount}, "values").mul_(0.3)), 1e-2);
  if (comm->size() > 1) {
    const Trained own = train(*alone, batch, kPerRank * comm->rank(), kPerRank);
    EXPECT_GT(apart(own.values), 1e-3);
  }

  const std::span<const float> values(shared.values.const_data_ptr<float>(),
                                      static_cast<std::size_t>(kCount));
  agree(*comm, "trained values", hash128(std::as_bytes(values)).hex());
}

}  // namespace
}  // namespace thinwire
