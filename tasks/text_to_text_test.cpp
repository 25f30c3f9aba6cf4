#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tasks/generate.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::Fixture;
using test::sample;
using test::usage_error;
using testing::HasSubstr;

const TaskConfig kConfig = test::writing_config({{"max_new_tokens", 14}});

TEST(TextToText, PacksTargetsShiftedBehindTheStart) {
  const Fixture f("t5_tied", "text_to_text", kConfig);
  const BackboneInput in = f.collate(
      {sample(4, {5, 6, 1}, 0, {9, 1}), sample(5, {7, 1}, 0, {8, 3, 1})});
  const auto values = [](const at::Tensor& x) {
    const auto* p = x.const_data_ptr<std::int64_t>();
    return std::vector<std::int64_t>(p, p + x.numel());
  };
  EXPECT_THAT(values(in.encoder.tokens), testing::ElementsAre(5, 6, 1, 7, 1));
  EXPECT_THAT(values(in.labels), testing::ElementsAre(9, 1, 8, 3, 1));
  EXPECT_THAT(values(in.decoder.tokens), testing::ElementsAre(0, 9, 0, 8, 3));
  EXPECT_THAT(in.decoder.layout.offsets, testing::ElementsAre(0, 2, 5));
  EXPECT_THAT(in.sample_ids, testing::ElementsAre(4, 5));
}

TEST(TextToText, LossOfABatchIsTheSumOverItsSamples) {
  Fixture f("t5_gated", "text_to_text", kConfig);
  const std::vector<Sample> samples{sample(1, {5, 6, 9, 1}, 0, {9, 1}),
                                    sample(2, {7, 1}, 0, {8, 3, 4, 1}),
                                    sample(3, {30, 2, 1}, 0, {1})};
  const ForwardContext ctx;
  const BackboneInput all = f.collate(samples);
  const LossTerms whole = f.task->loss(*f.backbone, all, ctx);
  EXPECT_EQ(whole.weight, 7);
  const auto rows = f.task->evaluate(*f.backbone, all, ctx);
  double sum = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const LossTerms one =
        f.task->loss(*f.backbone, f.collate({samples[i]}), ctx);
    const double loss = one.sum.item<double>();
    EXPECT_NEAR(rows[i].loss_sum, loss, 1e-4);
    EXPECT_EQ(rows[i].loss_weight, one.weight);
    EXPECT_EQ(rows[i].sample, samples[i].id);
    sum += loss;
  }
  EXPECT_NEAR(whole.sum.item<double>(), sum, 1e-3);
  const Metrics m = f.task->metrics(rows);
  EXPECT_NEAR(m.at("loss"), sum / 7, 1e-4);
  EXPECT_EQ(m.at("exact_match"), 0);
}

// The shortcut of evaluate() against decoding itself.
TEST(TextToText, ExactMatchIsWhatGreedyDecodingGives) {
  Fixture f("t5_gated", "text_to_text", kConfig);
  const ForwardContext ctx;
  const std::vector<std::vector<std::int32_t>> inputs{
      {5, 6, 1}, {7, 1}, {20, 21, 22, 1}, {3, 3, 3}};
  std::vector<Sample> samples;
  for (const auto& input : inputs) {
    samples.push_back(sample(samples.size(), input, 0, {2}));
  }
  const auto texts =
      generate(*f.backbone, f.collate(samples), ctx, {.max_new_tokens = 6});
  std::vector<double> want;
  for (std::size_t b = 0; b < samples.size(); ++b) {
    samples[b].target = texts[b].tokens;
    want.push_back(1);
    if (b % 2 == 1) {  // the last token is another one
      samples[b].target.back() = (texts[b].tokens.back() + 1) % 41;
      want.back() = 0;
    }
  }
  const auto rows = f.task->evaluate(*f.backbone, f.collate(samples), ctx);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    EXPECT_EQ(rows[b].prediction, want[b]) << b;
  }
  EXPECT_EQ(f.task->metrics(rows).at("exact_match"), 0.5);
}

TEST(TextToText, OutcomesFollowTheModel) {
  Fixture f("t5_tied", "text_to_text", kConfig);
  ForwardContext ctx;
  constexpr int kDraws = 3000;
  std::vector<double> counts(41);
  const BackboneInput in = f.collate({sample(0, {5, 6, 1}, 0, {9, 1})});
  const at::Tensor p = f.task->logits(*f.backbone, in, ctx).detach().softmax(1);
  for (int i = 0; i < kDraws; ++i) {
    ctx.step = static_cast<std::uint64_t>(i);
    const auto outcomes = f.task->outcomes(*f.backbone, in, ctx);
    ASSERT_EQ(outcomes.size(), 1);
    EXPECT_EQ(outcomes[0].probabilities.at(0), 1);
    const auto token = outcomes[0].labels[1].item<std::int64_t>();
    ASSERT_TRUE(token >= 0 && token < 41);
    ++counts[static_cast<std::size_t>(token)];
  }
  for (std::int64_t token = 0; token < 41; ++token) {
    const double want = p[1][token].item<double>();
    // Four standard deviations; the draws themselves are fixed.
    EXPECT_NEAR(counts[static_cast<std::size_t>(token)] / kDraws, want,
                4 * std::sqrt(want / kDraws) + 1e-3);
  }
}

TEST(TextToText, OutcomesOfABatchAreThoseOfItsSamples) {
  Fixture f("t5_tied", "text_to_text", kConfig);
  const std::vector<Sample> samples = {sample(4, {5, 6, 1}, 0, {9, 3, 1}),
                                       sample(7, {8, 1}, 0, {2, 9, 7, 1})};
  const auto both = f.task->outcomes(*f.backbone, f.collate(samples), {});
  ASSERT_EQ(both.size(), 1);
  EXPECT_EQ(both[0].probabilities, std::vector<double>(2, 1));
  std::int64_t row = 0;
  for (const Sample& s : samples) {
    const auto one = f.task->outcomes(*f.backbone, f.collate({s}), {});
    const std::int64_t n = one[0].labels.numel();
    EXPECT_TRUE(both[0].labels.narrow(0, row, n).equal(one[0].labels));
    row += n;
  }
}

TEST(TextToText, BadSamplesAreNamed) {
  const Fixture f("t5_tied", "text_to_text", kConfig);
  EXPECT_THAT(usage_error([&] {
                f.collate({sample(77, {5, 41}, 0, {1})});
              }),
              testing::AllOf(HasSubstr("sample 77"), HasSubstr("41"),
                             HasSubstr("0 to 40")));
  EXPECT_THAT(usage_error([&] { f.collate({sample(78, {5}, 0, {-3})}); }),
              testing::AllOf(HasSubstr("sample 78"), HasSubstr("-3")));
  EXPECT_THAT(usage_error([&] { f.collate({sample(79, {5}, 0, {})}); }),
              HasSubstr("sample 79"));
  EXPECT_THAT(usage_error([&] { f.collate({sample(80, {}, 0, {1})}); }),
              HasSubstr("sample 80"));
}

TEST(TextToText, NeedsADecoder) {
  EXPECT_THAT(
      usage_error([] { Fixture("bert_bare", "text_to_text", kConfig); }),
      HasSubstr("bert"));
}

TEST(SpanCorruption, IsTextToTextMeasuredByItsLoss) {
  Fixture f("t5_tied", "span_corruption", kConfig);
  EXPECT_EQ(f.task->kind(), "span_corruption");
  EXPECT_EQ(f.task->main_metric(), "loss");
  const auto in = f.collate({sample(1, {5, 6, 1}, 0, {9, 1})});
  EXPECT_EQ(f.task->loss(*f.backbone, in, {}).weight, 2);
}

}  // namespace
}  // namespace thinwire
