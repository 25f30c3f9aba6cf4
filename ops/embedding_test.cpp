#include "ops/embedding.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::copy_leaf;
using test::normal;

TEST(EmbeddingRows, EqualsTheLookUpInFp32) {
  const at::Tensor tokens =
      at::tensor(std::vector<std::int64_t>{2, 0, 2, 4, 4, 4}, at::kLong)
          .view({2, 3});
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const std::int64_t padding : {-1, 4}) {
      at::Tensor table = normal("w", {5, 7}).to(type).requires_grad_(true);
      at::Tensor twin = copy_leaf(table.detach().to(at::kFloat));
      const at::Tensor g = normal("g", {2, 3, 7});
      const at::Tensor rows = embedding_rows(table, tokens, padding);
      const at::Tensor want = at::embedding(twin, tokens, padding);
      EXPECT_EQ(rows.scalar_type(), at::kFloat);
      EXPECT_TRUE(rows.equal(want));
      rows.mul(g).sum().backward();
      want.mul(g).sum().backward();
      EXPECT_TRUE(table.grad().equal(twin.grad().to(type)));
      EXPECT_GT(table.grad().norm().item<float>(), 1);
    }
  }
}

// A sum of 4,096 ones in bf16 would stop at 256.
TEST(EmbeddingRows, ABf16TableSumsInFp32) {
  at::Tensor table = normal("w", {2, 3}).to(at::kBFloat16).requires_grad_(true);
  const at::Tensor tokens =
      at::tensor(std::vector<std::int64_t>(4096, 1), at::kLong);
  embedding_rows(table, tokens).sum().backward();
  EXPECT_EQ(table.grad()[1][2].item<float>(), 4096);
  EXPECT_EQ(table.grad()[0][0].item<float>(), 0);
}

}  // namespace
}  // namespace thinwire
