#include "launch/method_matrix.h"

#include <gtest/gtest.h>

#include "models/backbone.h"
#include "peft/method.h"

namespace thinwire {
namespace {

std::string cell(const std::vector<std::vector<std::string>>& rows,
                 const std::string& method, const std::string& model) {
  for (std::size_t column = 1; column < rows[0].size(); ++column) {
    if (rows[0][column] != model) continue;
    for (const auto& row : rows) {
      if (row[0] == method) return row[column];
    }
  }
  return "none such";
}

TEST(MethodMatrix, HasEveryMethodAndBackbone) {
  const auto rows = method_matrix();
  EXPECT_EQ(rows.size(), methods().size() + 1);
  for (const auto& row : rows) {
    EXPECT_EQ(row.size(), backbone_names().size() + 1) << row[0];
  }
}

TEST(MethodMatrix, SaysWhatFits) {
  const auto rows = method_matrix();
  for (const std::string& model : backbone_names()) {
    for (const char* method : {"compacter",
                               "diff_pruning",
                               "fish_mask",
                               "full",
                               "houlsby",
                               "ia3",
                               "intrinsic_dimension",
                               "kadaptation",
                               "lora",
                               "lt_sft",
                               "magnitude_mask",
                               "pafi",
                               "parallel_adapter",
                               "pfeiffer",
                               "phm_adapter",
                               "prefix_tuning",
                               "prompt_tuning",
                               "random_mask",
                               "snip_mask",
                               "sparse_structure",
                               "vera"}) {
      EXPECT_EQ(cell(rows, method, model), "yes") << method << " " << model;
    }
  }
  EXPECT_EQ(cell(rows, "bitfit", "bert"), "yes");
  EXPECT_EQ(cell(rows, "bitfit", "t5"), "with add_missing");
  EXPECT_EQ(cell(rows, "head", "roberta"), "yes");
  EXPECT_EQ(cell(rows, "head", "t5"), "no");
  EXPECT_EQ(cell(rows, "attempt", "t5"), "with random_sources");
  EXPECT_EQ(cell(rows, "lst", "bart"), "yes");
  EXPECT_EQ(cell(rows, "lst", "bert"), "no");
  EXPECT_EQ(cell(rows, "lst", "t5"), "yes");
}

}  // namespace
}  // namespace thinwire
