#include "dist/finality.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
// A recomputed block is a custom function.
#include <torch/csrc/autograd/custom_function.h>

#include "base/error.h"

namespace thinwire {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Entries a, b, c, … of four ones each.
Delta make_delta(const std::vector<std::string>& names) {
  DeltaBuilder builder;
  for (const std::string& name : names) {
    DeltaEntry e;
    e.name = name;
    e.shape = {name == "empty" ? 0 : 4};
    builder.add(e, at::full(e.shape, 1, at::kFloat));
  }
  return builder.build();
}

// x * w * w, computed again in backward; w is an input of the node.
struct Recomputed : torch::autograd::Function<Recomputed> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const at::Tensor& w) {
    ctx->save_for_backward({x, w});
    return x.mul(w).mul(w);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::AutoGradMode on(true);
    const at::Tensor x = saved[0].detach().requires_grad_(true);
    const at::Tensor w = saved[1].detach().requires_grad_(true);
    x.mul(w).mul(w).backward(grads[0]);
    return {x.grad(), w.grad()};
  }
};

class FinalityTest : public ::testing::Test {
 protected:
  // What one backward of `loss` made final before it, and in it, in order.
  void pass(const at::Tensor& loss) {
    before_.clear();
    during_.clear();
    running_ = false;
    finality_.watch(loss);
    running_ = true;
    if (loss.defined() && loss.requires_grad()) loss.backward();
    finality_.stop();
  }
  const at::Tensor& leaf(int e) { return delta_.leaf(e); }

  Delta delta_ = make_delta({"a", "b", "c", "empty"});
  bool running_ = false;
  std::vector<int> before_, during_;
  Finality finality_{delta_, [this](int entry) {
                       (running_ ? during_ : before_).push_back(entry);
                       if (running_) seen_ = delta_.grads().clone();
                     }};
  at::Tensor seen_;  // the gradients when the last entry became final
};

TEST_F(FinalityTest, LaterLayersFirstAndWhatIsNotReachedAtOnce) {
  pass(leaf(0).mul(2).mul(leaf(2)).sum());
  EXPECT_THAT(before_, ElementsAre(1, 3));
  EXPECT_THAT(during_, UnorderedElementsAre(0, 2));
  EXPECT_EQ(finality_.order(), during_);
  pass(leaf(0).mul(leaf(1)).mul(leaf(2)).sum());
  EXPECT_THAT(before_, ElementsAre(3));
  EXPECT_THAT(during_, UnorderedElementsAre(0, 1, 2));
}

TEST_F(FinalityTest, ALeafWithManyUsesIsFinalOnceAndWhole) {
  const at::Tensor x = leaf(0).mul(3);
  pass(x.add(leaf(0)).add(x.mul(leaf(0))).sum());  // 4 a + 3 a^2
  EXPECT_THAT(during_, ElementsAre(0));
  EXPECT_EQ(seen_[0].item<float>(), 10);
}

TEST_F(FinalityTest, ARecomputedBlockCountsItsLeaves) {
  const at::Tensor x = leaf(0).mul(2);
  // b is used in the block twice and outside once.
  pass(Recomputed::apply(x, leaf(1)).mul(leaf(1)).sum());  // 2 a b^3
  EXPECT_THAT(before_, ElementsAre(2, 3));
  EXPECT_THAT(during_, UnorderedElementsAre(0, 1));
  EXPECT_EQ(delta_.grads()[0].item<float>(), 2);
  EXPECT_EQ(delta_.grads()[4].item<float>(), 6);
  EXPECT_TRUE(seen_.equal(delta_.grads()));
}

TEST_F(FinalityTest, WithoutAGraphAllIsFinal) {
  pass(at::full({}, 1.0));
  EXPECT_THAT(before_, ElementsAre(0, 1, 2, 3));
  pass(at::Tensor());
  EXPECT_THAT(before_, ElementsAre(0, 1, 2, 3));
}

TEST_F(FinalityTest, OtherMicroBatchesSayNothing) {
  leaf(0).sum().backward();
  EXPECT_TRUE(before_.empty() && during_.empty());
  pass(leaf(0).sum());
  leaf(0).sum().backward();
  EXPECT_THAT(during_, ElementsAre(0));
}

// A block that runs a backward of its own into the leaves, behind the graph's
// back: what was declared final would not be.
struct Hidden : torch::autograd::Function<Hidden> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x) {
    return x.clone();
  }
  static variable_list backward(AutogradContext*, variable_list grads) {
    const at::AutoGradMode on(true);
    inner->mul(2).sum().backward();
    return grads;
  }
  static const at::Tensor* inner;
};
const at::Tensor* Hidden::inner = nullptr;

TEST_F(FinalityTest, GradientThatNoGraphAnnouncedIsAnError) {
  Hidden::inner = &leaf(1);
  const at::Tensor loss = Hidden::apply(leaf(0)).sum();
  try {
    pass(loss);
    FAIL() << "not noticed";
  } catch (const std::exception& e) {
    EXPECT_THAT(e.what(), ::testing::HasSubstr("'b'"));
  }
  finality_.stop();
}

}  // namespace
}  // namespace thinwire
