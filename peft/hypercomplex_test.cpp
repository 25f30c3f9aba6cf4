#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "peft/projection.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

// The worked example of a hypercomplex map with n = 2, 4 inputs, 2 outputs:
// W = sum of A_i (x) s_i t_i, by hand.
TEST(Hypercomplex, FactoredAndWholeEqualTheSumOfKroneckerProducts) {
  const at::Tensor x = at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({1, 4});
  const at::Tensor y = at::tensor({0.498f, 0.586f}).view({1, 2});
  const at::Tensor a =
      at::tensor({0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f, 0.7f, 0.8f});
  const at::Tensor s = at::tensor({0.1f, 0.2f, 0.3f, 0.4f}).view({2, 2, 1});
  const at::Tensor t = at::tensor({0.1f, 0.2f}).view({2, 1, 1});
  const ProjectionPlace place{"map.", 4, 2, false};
  for (const std::int64_t rank : {1, 0}) {
    const auto kind = hypercomplex_projections(
        {.method = "test", .n = 2, .rank = rank, .shared_rule = false});
    DeltaBuilder builder;
    builder.method_config("{}");
    kind->declare(builder, place, 1);
    const Delta delta = builder.build();
    const auto set = [&](const char* name, const at::Tensor& value) {
      at::Tensor leaf = delta.leaf(std::string("map.") + name).detach();
      leaf.copy_(value.view(leaf.sizes()));
    };
    set("phm_rule", a);
    if (rank == 1) {
      set("W_left", s);
      set("W_right", t);
    } else {
      set("W", s.matmul(t));
    }
    EXPECT_TRUE(golden_close("y", (*kind->read(delta, place))(x), y, 1e-6))
        << rank;
  }
}

}  // namespace
}  // namespace thinwire
