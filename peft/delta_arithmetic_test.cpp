#include "peft/delta_arithmetic.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/temp_folder.h"
#include "peft/interop/weights_file.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::Tiny;

constexpr const char* kPooler = "bert.pooler.dense.weight";

// A mask of the pooler's matrix, [24, 24], with the numbers value, value + 1, …
NamedDelta masked(const std::string& path, const std::vector<int>& positions,
                  float value, const Digest& backbone,
                  const char* target = kPooler) {
  DeltaBuilder builder;
  builder.method_config(R"({"method": "fish_mask"})");
  DeltaEntry e;
  e.name = std::string("fish.") + target;
  e.kind = EntryKind::kMasked;
  e.shape = {24, 24};
  e.target = target;
  e.index = at::tensor(positions, at::kInt);
  const auto n = static_cast<std::int64_t>(positions.size());
  builder.add(e, at::arange(n, at::kFloat).add(value));
  return {path, {builder.build(), backbone}};
}

class Arithmetic : public ::testing::Test {
 protected:
  Arithmetic()
      : tiny_("bert_classify"),
        here_(tiny_.backbone->parameters().identity()) {}
  std::vector<NamedDelta> two() {
    std::vector<NamedDelta> out;
    out.push_back(masked("a", {3, 70, 500}, 1, here_));
    out.push_back(masked("b", {3, 70, 500}, 5, here_));
    return out;
  }
  template <class Body>
  std::string error(const Body& body) {
    try {
      body();
    } catch (const UsageError& e) {
      return e.what();
    }
    return "nothing is wrong";
  }
  at::Tensor pooler() {
    const Parameters& p = tiny_.backbone->parameters();
    return p.slot(p.require(kPooler)).frozen.reshape({-1});
  }
  Tiny tiny_;
  Digest here_;
};

TEST_F(Arithmetic, AverageNeedsNoOrigin) {
  auto deltas = two();
  const std::vector<double> weights = {0.25, 0.75};
  combine(deltas, weights, {});
  EXPECT_TRUE(deltas[0].file.delta.values().narrow(0, 0, 3).equal(
      at::tensor({4.0f, 5.0f, 6.0f})));
}

TEST_F(Arithmetic, DifferencesAreSummedFromTheModelsOwnNumbers) {
  auto deltas = two();
  std::vector<std::unique_ptr<Method>> none;
  const at::Tensor origin =
      origin_of(deltas[0].file.delta, *tiny_.backbone, none, 1);
  const at::Tensor base = pooler().index_select(0, at::tensor({3, 70, 500}));
  EXPECT_TRUE(origin.narrow(0, 0, 3).equal(base));
  EXPECT_EQ(origin[3].item<float>(), 0);  // the gap

  const std::vector<double> minus = {1, -1};
  combine(deltas, minus, origin);  // a - b moves by -4 everywhere
  EXPECT_TRUE(deltas[0].file.delta.values().narrow(0, 0, 3).allclose(
      base.sub(4), 0, 1e-6));
  deltas = two();
  const std::vector<double> plus = {1, 1};
  combine(deltas, plus, origin);
  EXPECT_TRUE(deltas[0].file.delta.values().narrow(0, 0, 3).allclose(
      at::tensor({6.0f, 8.0f, 10.0f}).sub(base), 0, 1e-6));
  EXPECT_EQ(deltas[0].file.delta.values()[3].item<float>(), 0);
}

// (IA)^3 begins at 1, LoRA at its random numbers: half the way is half of that.
TEST_F(Arithmetic, WhatMethodsAddBeginsAtItsInitialValues) {
  for (const char* id : {"ia3", "lora", "houlsby", "fish_tuning"}) {
    std::vector<std::unique_ptr<Method>> methods;
    methods.push_back(make_method(id, Config::object()));
    std::vector<NamedDelta> deltas;
    deltas.push_back(
        {"a",
         {testing::declare(*methods[0], *tiny_.backbone, {.seed = 7}), here_}});
    Delta& delta = deltas[0].file.delta;
    const at::Tensor initial = delta.snapshot();
    for (std::size_t i = 0; i < delta.entries().size(); ++i) {
      delta.leaf(static_cast<int>(i)).detach().add_(0.5);
    }
    const at::Tensor origin = origin_of(delta, *tiny_.backbone, methods, 7);
    EXPECT_TRUE(origin.equal(initial)) << id;
    const std::vector<double> undone = {0};
    combine(deltas, undone, origin);
    EXPECT_TRUE(delta.values().equal(initial)) << id;
  }
}

TEST_F(Arithmetic, IntersectKeepsTheCommonPositionsAndItsOwnNumbers) {
  std::vector<NamedDelta> deltas;
  deltas.push_back(masked("a", {1, 3, 70, 71, 500, 575}, 1, here_));
  deltas.push_back(masked("b", {0, 3, 71, 500, 575}, 9, here_));
  deltas.push_back(masked("c", {3, 70, 71, 575}, 9, here_));
  const Delta out = intersect(deltas);
  ASSERT_EQ(out.entries().size(), 1u);
  EXPECT_TRUE(out.entries()[0].index.equal(at::tensor({3, 71, 575}, at::kInt)));
  EXPECT_TRUE(
      out.values().narrow(0, 0, 3).equal(at::tensor({2.0f, 4.0f, 6.0f})));
  EXPECT_EQ(out.method_configs(), deltas[0].file.delta.method_configs());
}

TEST_F(Arithmetic, IntersectOfDisjointMasksIsAnError) {
  std::vector<NamedDelta> deltas;
  deltas.push_back(masked("a", {1, 2}, 1, here_));
  deltas.push_back(masked("b", {3, 4}, 1, here_));
  EXPECT_THAT(error([&] { intersect(deltas); }),
              HasSubstr("no position in common"));
  deltas[1] = masked("b", {1, 2}, 1, here_,
                     "bert.encoder.layer.0.attention.self.key.weight");
  EXPECT_THAT(error([&] { intersect(deltas); }),
              HasSubstr("no position in common"));
}

TEST_F(Arithmetic, MismatchesAreNamed) {
  auto deltas = two();
  deltas[1] = masked("b", {3, 71, 500}, 1, here_);
  EXPECT_THAT(error([&] { require_alike(deltas); }),
              HasSubstr("a and b have different layouts: 'fish." +
                        std::string(kPooler) + "' trains other positions"));
  deltas[1] = masked("b", {3, 70, 500}, 1, Digest{});
  EXPECT_THAT(error([&] { require_alike(deltas); }),
              HasSubstr("was made for backbone"));
}

// Both forms give back the numbers that the bound model has.
TEST_F(Arithmetic, FullAndSparseFilesHoldTheModelsTensors) {
  const auto deltas = two();
  const Delta& delta = deltas[1].file.delta;
  Parameters& parameters = tiny_.backbone->parameters();
  const at::Tensor before = pooler().clone();
  delta.bind(parameters);
  const TempFolder temp;
  write_weights_file(temp / "full", delta, parameters, here_,
                     WeightsForm::kFull);
  write_weights_file(temp / "sparse", delta, parameters, here_,
                     WeightsForm::kSparse);
  const SafetensorsFile full(temp / "full"), sparse(temp / "sparse");
  EXPECT_THAT(full.names(), ElementsAre(kPooler));
  EXPECT_THAT(sparse.names(), ElementsAre(std::string(kPooler) + ".index",
                                          std::string(kPooler) + ".values"));
  const at::Tensor index =
      sparse.tensor(std::string(kPooler) + ".index").to(at::kLong);
  at::Tensor put = before.clone();
  put.index_copy_(0, index, sparse.tensor(std::string(kPooler) + ".values"));
  EXPECT_FALSE(put.equal(before));
  EXPECT_TRUE(put.equal(full.tensor(kPooler).reshape({-1})));
  EXPECT_EQ(full.metadata().at("thinwire_backbone"), here_.hex());
}

}  // namespace
}  // namespace thinwire
