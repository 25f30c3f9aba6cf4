#include "ops/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <memory>

#include "ops/norm.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::largest_difference;
using test::leaf;
using test::normal;

struct Count : torch::autograd::PostAccumulateGradHook {
  explicit Count(int* to) : count(to) {}
  void operator()(const at::Tensor&) override { ++*count; }
  int* count;
};

struct Weights {
  at::Tensor x = leaf("x", {5, 8}), scale = leaf("s", {8});
  at::Tensor matrix = leaf("m", {8, 8}), side = leaf("d", {5, 8});

  std::vector<at::Tensor> all() const { return {x, scale, matrix, side}; }
  // Uses the matrix twice.
  at::Tensor part(const std::vector<at::Tensor>& in) const {
    const at::Tensor h = rms_norm(in[0].matmul(matrix).tanh(), scale, 1e-6);
    return h.matmul(matrix).mul(in[1]).add(in[0]);
  }
};

TEST(Checkpoint, SameBitsAndEachLeafOnce) {
  Weights plain, saving;
  const auto run = [](const Weights& w, const auto& apply) {
    const at::Tensor h = w.x.mul(2);
    return apply({apply({h, w.side.mul(3)}), w.side}).square().sum();
  };
  const at::Tensor want = run(
      plain, [&](const std::vector<at::Tensor>& in) { return plain.part(in); });
  const at::Tensor got = run(saving, [&](const std::vector<at::Tensor>& in) {
    return checkpoint(
        [&](const std::vector<at::Tensor>& own) { return saving.part(own); },
        in);
  });
  EXPECT_EQ(want.item<float>(), got.item<float>());
  int times = 0;
  torch::autograd::impl::set_post_acc_grad_hooks(
      saving.scale, std::make_unique<Count>(&times));
  want.backward();
  got.backward();
  EXPECT_EQ(times, 1);
  for (std::size_t i = 0; i < plain.all().size(); ++i) {
    SCOPED_TRACE(i);
    // The matrix has four uses: two sums of two instead of one of four.
    EXPECT_LE(largest_difference(plain.all()[i].grad(), saving.all()[i].grad()),
              i == 2 ? 1e-4 : 0);
  }
}

TEST(Checkpoint, KeepsOnlyItsInputs) {
  const at::Tensor x = leaf("x", {4});
  int calls = 0;
  const at::Tensor out = checkpoint(
      [&](const std::vector<at::Tensor>& own) {
        ++calls;
        return own[0].exp().log1p().sin();
      },
      {x.mul(1)});
  EXPECT_EQ(calls, 1);
  ASSERT_EQ(out.grad_fn()->name(), "checkpoint");
  EXPECT_EQ(out.grad_fn()->num_outputs(), 1u);
  out.sum().backward();
  EXPECT_EQ(calls, 2);
}

TEST(Checkpoint, WithoutAGraphItIsThePart) {
  const at::Tensor x = normal("x", {4});
  const auto part = [](const std::vector<at::Tensor>& own) {
    return own[0].exp();
  };
  EXPECT_FALSE(checkpoint(part, {x}).requires_grad());
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(checkpoint(part, {leaf("x", {4})}).requires_grad());
}

TEST(Checkpoint, FrozenInputAndUnusedLeaf) {
  const at::Tensor x = normal("x", {4}), other = leaf("o", {4});
  at::Tensor w = leaf("w", {4});
  checkpoint([&](const std::vector<at::Tensor>& own) { return own[0].mul(w); },
             {x, other, {}})
      .sum()
      .backward();
  EXPECT_EQ(largest_difference(w.grad(), x), 0);
  EXPECT_FALSE(x.grad().defined());
  EXPECT_FALSE(other.grad().defined());
}

}  // namespace
}  // namespace thinwire
