#include "models/export.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/failpoint.h"
#include "models/test_models.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

class ExportTest : public testing::Test {
 protected:
  ~ExportTest() override {
    set_write_faults(0, 0);
    fs::remove_all(folder_);
  }
  const std::string folder_ =
      (fs::temp_directory_path() /
       ("thinwire_export_" + std::to_string(::getpid())) / "model")
          .string();
};

TEST_F(ExportTest, RoundTripKeepsIdentity) {
  for (const char* name :
       {"bart_bare", "bart_text", "bert_bare", "gpt2_bare", "gpt2_lm",
        "t5_tied", "t5_gated"}) {
    const auto model = load_backbone(golden_path(name));
    save_hf_folder(*model, folder_);
    const auto back = load_backbone(folder_);
    EXPECT_EQ(back->parameters().identity(), model->parameters().identity())
        << name;
    EXPECT_EQ(back->parameters().size(), model->parameters().size());
  }
}

// Buffers too, and nothing that is tied.
TEST_F(ExportTest, NamesAreThoseThatHfSaves) {
  const auto names = [](const std::string& folder) {
    auto list = SafetensorsFile(folder + "/model.safetensors").names();
    std::ranges::sort(list);
    return list;
  };
  for (const char* name : {"bart_text", "t5_tied", "t5_gated"}) {
    save_hf_folder(*load_backbone(golden_path(name)), folder_);
    EXPECT_EQ(names(folder_), names(golden_path(name))) << name;
  }
}

TEST_F(ExportTest, TrainedMaskedAndMergedNumbersAreWritten) {
  const auto bert = load_backbone(golden_path("bert_classify"));
  Parameters& p = bert->parameters();
  const int leaf = p.require("bert.pooler.dense.bias");
  p.set_leaf(leaf, at::full({24}, 3.0).set_requires_grad(true));
  const int merged = p.require("bert.pooler.dense.weight");
  add_classifier(*bert, *random_source(1), 5);
  save_hf_folder(*bert, folder_, {{merged, at::full({24, 24}, 2.0)}});

  const SafetensorsFile file(folder_ + "/model.safetensors");
  EXPECT_EQ(file.tensor("bert.pooler.dense.bias").sum().item<float>(), 72);
  EXPECT_EQ(file.tensor("bert.pooler.dense.weight").mean().item<float>(), 2);
  EXPECT_TRUE(file.contains("classifier.weight"));
  const ModelConfig config = read_model_config(folder_);
  EXPECT_EQ(config.labels, 5);
  EXPECT_EQ(config.raw["architectures"][0], "BertForSequenceClassification");
}

TEST_F(ExportTest, AFullDiskAtAnyStepLeavesTheOldFolder) {
  const auto old_model = load_backbone(golden_path("t5_tied"));
  save_hf_folder(*old_model, folder_);
  const Digest before = old_model->parameters().identity();
  const auto model = load_backbone(golden_path("t5_tied"));
  model->parameters().set_leaf(0, at::full({41, 20}, 1.0));
  // Header length, header, tensors, fsync, rename; then the new file stands.
  const std::int64_t renamed = model->parameters().size() + 4;
  for (std::int64_t n = 1; n <= renamed; ++n) {
    set_write_faults(n, 0);
    EXPECT_THROW(save_hf_folder(*model, folder_), IoError) << n;
    set_write_faults(0, 0);
    EXPECT_FALSE(fs::exists(folder_ + "/model.safetensors.tmp"));
    ASSERT_EQ(load_backbone(folder_)->parameters().identity(), before) << n;
  }
}

TEST_F(ExportTest, AFolderThatCannotBeMadeIsNamed) {
  fs::create_directories(fs::path(folder_).parent_path());
  std::ofstream(folder_) << "a file stands here";
  const auto model = load_backbone(golden_path("t5_tied"));
  EXPECT_THROW(save_hf_folder(*model, folder_), IoError);
}

}  // namespace
}  // namespace thinwire
