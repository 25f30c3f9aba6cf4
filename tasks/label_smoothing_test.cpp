// Smoothing acts in training and nowhere else, and is torch's.
#include "tasks/label_smoothing.h"

#include <ATen/core/Reduction.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ops/loss.h"
#include "tasks/test_samples.h"

namespace thinwire {
namespace {

using test::Fixture;
using test::sample;
using test::usage_error;
using testing::HasSubstr;

struct Case {
  const char *model, *kind;
  TaskConfig config;
  std::vector<Sample> samples;
};

std::vector<Case> cases() {
  const std::vector<Sample> texts{sample(1, {5, 6, 7}, 0, {8, 9, 1}),
                                  sample(2, {9, 3}, 0, {4, 1})};
  return {{"bert_classify",
           "classify",
           {{"labels", 3}, {"f1", "auto"}, {"head_seed", 1}},
           {sample(1, {5, 6, 7}, 2), sample(2, {9, 3}, 0)}},
          {"t5_tied", "text_to_text", test::writing_config(), texts},
          {"t5_gated", "span_corruption", test::writing_config(), texts},
          {"gpt2_lm", "lm", test::writing_config(), texts}};
}

TEST(LabelSmoothing, IsTorchsAndOfTrainingAlone) {
  for (Case& c : cases()) {
    SCOPED_TRACE(c.kind);
    c.config["label_smoothing"] = 0.1;
    Fixture f(c.model, c.kind, c.config);
    f.backbone->set_dropout(0);
    const BackboneInput in = f.collate(c.samples);
    ForwardContext ctx;
    const at::Tensor logits = f.task->logits(*f.backbone, in, ctx);
    const auto torchs = [&](double smoothing) {
      return at::cross_entropy_loss(logits, in.labels, {}, at::Reduction::Sum,
                                    kIgnoredLabel, smoothing)
          .item<double>();
    };
    const auto loss = [&] {
      return f.task->loss(*f.backbone, in, ctx).sum.item<double>();
    };
    ctx.training = true;
    EXPECT_NEAR(loss(), torchs(0.1), 1e-5 * torchs(0.1));
    ctx.training = false;
    EXPECT_NEAR(loss(), torchs(0), 1e-5 * torchs(0));
    double evaluated = 0;
    for (const EvalRow& row : f.task->evaluate(*f.backbone, in, ctx)) {
      evaluated += row.loss_sum;
    }
    EXPECT_NEAR(evaluated, torchs(0), 1e-5 * torchs(0));
    EXPECT_GT(std::abs(torchs(0.1) - torchs(0)), 1e-3);
  }
}

TEST(LabelSmoothing, OutOfRangeIsNamed) {
  for (const double bad : {-0.1, 1.0, std::nan("")}) {
    for (Case& c : cases()) {
      c.config["label_smoothing"] = bad;
      EXPECT_THAT(usage_error([&] { find_task(c.kind).make(c.config); }),
                  HasSubstr("task.label_smoothing is"));
    }
  }
}

}  // namespace
}  // namespace thinwire
