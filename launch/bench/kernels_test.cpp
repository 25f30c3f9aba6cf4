// The tensors and the figures of `thinwire bench kernels`.
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "launch/bench/kernels_report.h"
#include "launch/bench/kernels_verb.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

std::int64_t numbers_of(const std::vector<KernelTensor>& tensors) {
  std::int64_t n = 0;
  for (const KernelTensor& t : tensors) n += t.out * t.in;
  return n;
}

const KernelTensor& find(const std::vector<KernelTensor>& tensors,
                         std::string_view name) {
  return *std::ranges::find(tensors, name, &KernelTensor::name);
}

// As HF counts them, less relative position biases (2 x 32 x 12).
TEST(KernelTensors, AllOfAModel) {
  EXPECT_EQ(numbers_of(kernel_tensors("t5-base", {})), 222'903'552 - 768);
  EXPECT_EQ(numbers_of(kernel_tensors("bert-base", {})), 109'482'240);
}

TEST(KernelTensors, RowsThatReachThem) {
  const auto t5 =
      kernel_tensors("t5-small", {.batch = 2, .input = 10, .target = 3});
  EXPECT_EQ(find(t5, "encoder.block.0.layer.1.DenseReluDense.wi.weight").rows,
            20);
  EXPECT_EQ(find(t5, "decoder.block.5.layer.1.EncDecAttention.k.weight").rows,
            20);
  EXPECT_EQ(find(t5, "decoder.block.5.layer.1.EncDecAttention.q.weight").rows,
            6);
  const auto bert = kernel_tensors("minilm", {.batch = 2, .input = 10});
  EXPECT_EQ(find(bert, "bert.pooler.dense.weight").rows, 2);
}

TEST(KernelTensors, UnknownModelIsRefused) {
  try {
    kernel_tensors("t5-huge", {});
    FAIL() << "no error";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("t5-huge"));
  }
}

std::vector<KernelTensor> small() {
  return {{"a", "g", KernelKind::kLinear, 40, 30, 20},
          {"b", "g", KernelKind::kLinear, 40, 30, 20},
          {"e", "embedding", KernelKind::kEmbedding, 50, 8, 20},
          {"n", "norm", KernelKind::kNorm, 1, 30, 20},
          {"c", "bias", KernelKind::kBias, 1, 30, 20}};
}

TEST(KernelsBench, UniformOncePerGroup) {
  KernelsBenchOptions options;
  options.tensors = small();
  options.density = 0.5;
  options.rounds = 1;
  const std::vector<KernelRow> rows = bench_kernels(options);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].tensors, 2);
  EXPECT_NEAR(static_cast<double>(rows[0].k), 600, 80);
  for (const KernelRow& row : rows) {
    EXPECT_LE(row.error, row.allowed) << row.name;
    EXPECT_GT(row.seconds, 0) << row.name;
  }
  const KernelsSum sum = sum_of(rows, KernelKind::kLinear);
  EXPECT_EQ(sum.tensors, 2);
  EXPECT_DOUBLE_EQ(sum.seconds, 2 * rows[0].seconds);
  EXPECT_EQ(to_json({"uniform 0.5", rows})["sums"].size(), 4u);
}

TEST(KernelsBench, MasksByName) {
  KernelsBenchOptions options;
  options.tensors = small();
  options.masks.emplace("b", at::tensor({1, 7, 1199}, at::kInt));
  options.rounds = 1;
  const std::vector<KernelRow> rows = bench_kernels(options);
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(rows[0].path, "empty");
  EXPECT_EQ(rows[1].k, 3);
  EXPECT_EQ(sum_of(rows, KernelKind::kLinear).empty, 1);
  EXPECT_THAT(format_kernels({"mask", rows}), HasSubstr("4 rows without"));
}

TEST(KernelsBench, OptionsOutOfRange) {
  for (const auto& [name, value] :
       {std::pair{"densities", "1.5"}, {"dtype", "fp64"}, {"threads", "0"}}) {
    Arguments arguments;
    arguments.set("model", {"minilm"});
    arguments.set(name, {value});
    EXPECT_THROW(run_bench_kernels(arguments), UsageError) << name;
  }
}

}  // namespace
}  // namespace thinwire
