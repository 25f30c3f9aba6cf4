#include "models/tensor_source.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "models/safetensors.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class HfFolderTest : public testing::Test {
 protected:
  HfFolderTest() { fs::create_directories(folder_); }
  ~HfFolderTest() override { fs::remove_all(folder_); }
  std::string file(const std::string& name) const {
    return (folder_ / name).string();
  }
  std::unique_ptr<TensorSource> open() const {
    return open_hf_folder(folder_.string(), "bert");
  }
  template <class E, class F>
  static std::string error(F&& f) {
    try {
      f();
    } catch (const E& e) {
      return e.what();
    }
    return "no error";
  }
  const fs::path folder_ = fs::temp_directory_path() /
                           ("thinwire_source_" + std::to_string(::getpid()));
};

TEST_F(HfFolderTest, HalfPrecisionIsConvertedAndFullIsMapped) {
  const at::Tensor x = at::randn({3, 5});
  write_safetensors(file("model.safetensors"),
                    {{"bert.f32", x},
                     {"bert.bf16", x.to(at::kBFloat16)},
                     {"bert.f16", x.to(at::kHalf)},
                     {"bert.ids", at::arange(3)}});
  const auto source = open();
  EXPECT_TRUE(source->get({"bert.f32"}, {3, 5}, {}).equal(x));
  EXPECT_TRUE(source->get({"bert.bf16"}, {3, 5}, {})
                  .equal(x.to(at::kBFloat16).to(at::kFloat)));
  EXPECT_TRUE(source->get({"bert.f16"}, {3, 5}, {})
                  .equal(x.to(at::kHalf).to(at::kFloat)));
  EXPECT_THAT(error<UsageError>([&] { source->get({"bert.ids"}, {3}, {}); }),
              HasSubstr("has dtype Long"));
}

TEST_F(HfFolderTest, OldNamesAndMissingPrefixAreFound) {
  write_safetensors(file("model.safetensors"),
                    {{"embeddings.LayerNorm.gamma", at::zeros({4})}});
  const auto source = open();
  const std::vector<std::string> names = {"bert.embeddings.LayerNorm.weight",
                                          "bert.embeddings.LayerNorm.gamma"};
  EXPECT_TRUE(source->get(names, {4}, {}).defined());
  EXPECT_TRUE(source->contains("bert.embeddings.LayerNorm.gamma"));
  EXPECT_FALSE(source->contains("bert.pooler.dense.weight"));
  EXPECT_FALSE(source->get({"bert.pooler"}, {4}, {}, false).defined());
  EXPECT_THAT(error<UsageError>([&] {
                source->get({"bert.pooler"}, {4, 2}, {});
              }),
              HasSubstr("tensor 'bert.pooler' [4, 2] is missing"));
  EXPECT_THAT(error<UsageError>([&] { source->get(names, {5}, {}); }),
              HasSubstr("has shape [4], the config asks for [5]"));
}

TEST_F(HfFolderTest, ShardsAreOneSource) {
  const at::Tensor a = at::randn({2}), b = at::randn({3});
  write_safetensors(file("model-00001-of-00002.safetensors"), {{"a", a}});
  write_safetensors(file("model-00002-of-00002.safetensors"), {{"b", b}});
  const auto index = [&](const std::string& text) {
    std::ofstream(file("model.safetensors.index.json")) << text;
  };
  index(R"({"metadata": {"total_size": 20}, "weight_map": {
      "a": "model-00001-of-00002.safetensors",
      "b": "model-00002-of-00002.safetensors"}})");
  EXPECT_TRUE(open()->get({"a"}, {2}, {}).equal(a));
  EXPECT_TRUE(open()->get({"b"}, {3}, {}).equal(b));

  index(R"({"weight_map": {"b": "model-00001-of-00002.safetensors"}})");
  EXPECT_THAT(error<UsageError>([&] { open(); }),
              HasSubstr("'b' is not in model-00001-of-00002.safetensors"));
  index(R"({"weight_map": {"b": "../b.safetensors"}})");
  EXPECT_THAT(error<UsageError>([&] { open(); }),
              HasSubstr("must be a file name in this folder"));
  index(R"({"weight_map": {"b": 3}})");
  EXPECT_THROW(open(), UsageError);
  index(R"({"weight_map": {"b": "absent.safetensors"}})");
  EXPECT_THROW(open(), IoError);
  index("[]");
  EXPECT_THAT(error<UsageError>([&] { open(); }), HasSubstr("weight_map"));
  index("{");
  EXPECT_THAT(error<UsageError>([&] { open(); }), HasSubstr("JSON"));
}

TEST_F(HfFolderTest, PickledWeightsAreRefusedWithTheWayOut) {
  EXPECT_THAT(error<IoError>([&] { open(); }),
              HasSubstr("holds neither model.safetensors"));
  std::ofstream(file("pytorch_model.bin")) << "x";
  EXPECT_THAT(error<UsageError>([&] { open(); }),
              HasSubstr("convert it to model.safetensors"));
  EXPECT_THROW(open_hf_folder(file("absent"), "bert"), IoError);
}

TEST(RandomSource, ValuesBelongToSeedAndName) {
  const Init init{Init::Kind::kNormal, 0.5f};
  const at::Tensor a = random_source(1)->get({"a"}, {64, 64}, init);
  EXPECT_TRUE(random_source(1)->get({"a", "old"}, {64, 64}, init).equal(a));
  EXPECT_FALSE(random_source(2)->get({"a"}, {64, 64}, init).equal(a));
  EXPECT_FALSE(random_source(1)->get({"b"}, {64, 64}, init).equal(a));
  EXPECT_NEAR(a.std().item<double>(), 0.5, 0.02);
  EXPECT_NEAR(a.mean().item<double>(), 0.0, 0.03);
  EXPECT_EQ(random_source(1)
                ->get({"w"}, {3}, {Init::Kind::kOnes, 0})
                .sum()
                .item<float>(),
            3);
}

}  // namespace
}  // namespace thinwire
