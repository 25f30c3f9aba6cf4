#include "models/hf_inputs.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

ModelConfig config(const char* architecture) {
  ModelConfig c;
  c.architecture = architecture;
  c.decoder_layers = c.architecture == "t5" ? 1 : 0;
  c.vocab_size = 100;
  c.type_vocab = 2;
  c.decoder_start_id = 7;
  c.pad_id = 9;
  c.labels = 3;
  return c;
}

at::Tensor whole(std::vector<std::int64_t> numbers, std::int64_t rows) {
  return at::tensor(numbers, at::kLong).view({rows, -1});
}

bool same(const at::Tensor& actual, std::vector<std::int64_t> expected) {
  return actual.equal(at::tensor(expected, at::kLong));
}

TEST(HfInputs, HiddenCellsAreDroppedAndPositionsKept) {
  const at::Tensor ids = at::arange(8, at::kLong).view({2, 4});
  const HfBatch batch =
      read_hf_inputs({{"input_ids", ids},
                      {"attention_mask", whole({1, 0, 1, 1, 0, 1, 1, 0}, 2)},
                      {"token_type_ids", whole({0, 0, 0, 1, 0, 0, 1, 0}, 2)},
                      {"labels", at::tensor({2, 0}, at::kLong)}},
                     config("bert"));
  EXPECT_TRUE(same(batch.input.encoder.tokens, {0, 2, 3, 5, 6}));
  EXPECT_TRUE(same(batch.input.encoder.types, {0, 0, 1, 0, 1}));
  EXPECT_TRUE(same(batch.input.encoder.layout.positions, {0, 2, 3, 1, 2}));
  EXPECT_TRUE(batch.encoder.first_hidden);
  EXPECT_TRUE(same(batch.input.labels, {2, 0}));
  EXPECT_EQ(batch.input.sample_ids, (std::vector<std::uint64_t>{0, 1}));
  EXPECT_EQ(batch.input.tasks.size(), 2u);

  const at::Tensor padded =
      batch.encoder.pad(batch.input.encoder.tokens.unsqueeze(1).add(1));
  ASSERT_EQ(padded.sizes(), at::IntArrayRef({2, 4, 1}));
  EXPECT_TRUE(same(padded.flatten(), {1, 0, 3, 4, 0, 6, 7, 0}));
}

TEST(HfInputs, RightPaddingHasNoHoles) {
  const HfBatch batch =
      read_hf_inputs({{"input_ids", at::ones({1, 3}, at::kInt)},
                      {"attention_mask", whole({1, 1, 0}, 1).to(at::kBool)}},
                     config("bert"));
  EXPECT_TRUE(batch.input.encoder.layout.contiguous_positions);
  EXPECT_FALSE(batch.encoder.first_hidden);
  EXPECT_FALSE(batch.input.labels.defined());
}

TEST(HfInputs, LabelsShiftedRightFeedTheDecoder) {
  const HfBatch batch =
      read_hf_inputs({{"input_ids", at::ones({2, 2}, at::kLong)},
                      {"labels", whole({4, 5, 6, 4, -100, -100}, 2)}},
                     config("t5"));
  EXPECT_TRUE(same(batch.input.decoder.tokens, {7, 4, 5, 7, 4, 9}));
  EXPECT_TRUE(same(batch.input.labels, {4, 5, 6, 4, -100, -100}));
}

TEST(HfInputs, ADecoderMaskDropsCells) {
  const HfBatch batch =
      read_hf_inputs({{"input_ids", at::ones({2, 2}, at::kLong)},
                      {"decoder_input_ids", whole({1, 2, 3, 4, 5, 6}, 2)},
                      {"decoder_attention_mask", whole({1, 1, 1, 1, 0, 1}, 2)},
                      {"labels", whole({1, 1, 1, 1, -100, 1}, 2)}},
                     config("t5"));
  EXPECT_TRUE(same(batch.input.decoder.tokens, {1, 2, 3, 4, 6}));
  EXPECT_TRUE(same(batch.input.decoder.layout.positions, {0, 1, 2, 0, 2}));
  EXPECT_EQ(batch.input.labels.numel(), 5);
}

TEST(HfInputs, RegressionLabelsStayReal) {
  const HfBatch batch =
      read_hf_inputs({{"input_ids", at::ones({2, 2}, at::kLong)},
                      {"labels", at::full({2, 1}, 0.5)}},
                     config("bert"));
  EXPECT_EQ(batch.input.labels.scalar_type(), at::kFloat);
  EXPECT_EQ(batch.input.labels.dim(), 1);
}

TEST(HfInputs, ErrorsNameTensorAndWhatIsRight) {
  const at::Tensor ids = at::ones({2, 2}, at::kLong);
  const auto error = [&](NamedTensors tensors, const char* model) {
    try {
      read_hf_inputs(tensors, config(model));
    } catch (const UsageError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(error({}, "bert"), HasSubstr("'input_ids' is missing"));
  EXPECT_THAT(error({{"input_id", ids}}, "bert"),
              HasSubstr("'input_id' is unknown; this model takes: input_ids"));
  EXPECT_THAT(error({{"input_ids", ids}, {"decoder_input_ids", ids}}, "bert"),
              HasSubstr("'decoder_input_ids' is unknown"));
  EXPECT_THAT(error({{"input_ids", ids.add(99)}}, "bert"),
              HasSubstr("'input_ids' holds 100 at element 0; allowed are 0 to "
                        "99"));
  EXPECT_THAT(error({{"input_ids", ids.to(at::kFloat)}}, "bert"),
              HasSubstr("must hold integers"));
  EXPECT_THAT(error({{"input_ids", ids[0]}}, "bert"),
              HasSubstr("must have shape [batch, length], got [2]"));
  EXPECT_THAT(
      error({{"input_ids", ids}, {"attention_mask", ids.narrow(1, 0, 1)}},
            "bert"),
      HasSubstr("'attention_mask' must have shape [2, 2], got [2, 1]"));
  EXPECT_THAT(
      error({{"input_ids", ids}, {"attention_mask", ids.mul(2)}}, "bert"),
      HasSubstr("'attention_mask' holds 2"));
  EXPECT_THAT(
      error({{"input_ids", ids}, {"attention_mask", ids.mul(0)}}, "bert"),
      HasSubstr("'attention_mask' hides all of row 0"));
  EXPECT_THAT(
      error({{"input_ids", ids}, {"token_type_ids", ids.mul(2)}}, "bert"),
      HasSubstr("'token_type_ids' holds 2"));
  EXPECT_THAT(error({{"input_ids", ids}, {"labels", ids[0].mul(3)}}, "bert"),
              HasSubstr("'labels' holds 3 at element 0; allowed are 0 to 2"));
  EXPECT_THAT(error({{"input_ids", ids}, {"labels", ids}}, "bert"),
              HasSubstr("'labels' must have shape [2], got [2, 2]"));
  EXPECT_THAT(error({{"input_ids", at::zeros({0, 2}, at::kLong)}}, "bert"),
              HasSubstr("the batch is empty"));
  EXPECT_THAT(error({{"input_ids", ids}}, "t5"),
              HasSubstr("'labels' or 'decoder_input_ids' is missing"));
  EXPECT_THAT(
      error({{"input_ids", ids}, {"labels", ids.narrow(0, 0, 1)}}, "t5"),
      HasSubstr("1 rows to decode, 2 to encode"));
  EXPECT_THAT(error({{"input_ids", ids},
                     {"labels", ids},
                     {"decoder_attention_mask", whole({1, 0, 1, 1}, 2)}},
                    "t5"),
              HasSubstr("put -100 there"));
}

}  // namespace
}  // namespace thinwire
