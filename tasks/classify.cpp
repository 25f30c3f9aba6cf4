// One of a fixed number of classes per input: BERT's pooled vector, a linear
// head, cross-entropy.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>

#include <cmath>

#include "base/error.h"
#include "ops/loss.h"
#include "tasks/collate.h"
#include "tasks/label_smoothing.h"
#include "tasks/metrics.h"
#include "tasks/pooled_head.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"labels", FieldType::kInt, "!", "number of classes"},
    {"f1", FieldType::kString, "auto",
     "binary (of class 1) | macro | auto: binary if there are two classes"},
    {"head_seed", FieldType::kInt, "1",
     "of the head's weights where the checkpoint has none"},
    kLabelSmoothing,
};

class Classify : public PooledTask {
 public:
  explicit Classify(const TaskConfig& config)
      : PooledTask(config.at("labels").get<std::int64_t>(),
                   config.at("head_seed").get<std::uint64_t>()),
        label_smoothing_(read_label_smoothing(config)) {
    if (outputs_ < 2 || outputs_ > 1 << 20) {
      fail<UsageError>("task.labels is {}; it must be from 2 to {}", outputs_,
                       1 << 20);
    }
    const auto f1 = config.at("f1").get<std::string>();
    if (f1 != "auto" && f1 != "binary" && f1 != "macro") {
      fail<UsageError>("task.f1 is '{}'; choose one of: auto, binary, macro",
                       f1);
    }
    binary_f1_ = f1 == "binary" || (f1 == "auto" && outputs_ == 2);
  }

  std::string_view kind() const override { return "classify"; }
  Answer answer() const override { return Answer::kClass; }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    BackboneInput in = collate_inputs(samples, config);
    in.labels = at::empty({static_cast<std::int64_t>(samples.size())},
                          at::TensorOptions().dtype(at::kLong));
    auto* labels = in.labels.mutable_data_ptr<std::int64_t>();
    for (const Sample& sample : samples) {
      if (!(sample.label >= 0 &&
            sample.label < static_cast<double>(outputs_)) ||
          sample.label != std::floor(sample.label)) {
        fail<UsageError>(
            "sample {}: label {} is not a class from 0 to {} (task.labels is "
            "{})",
            sample.id, sample.label, outputs_ - 1, outputs_);
      }
      *labels++ = static_cast<std::int64_t>(sample.label);
    }
    return in;
  }

  LossTerms loss(Backbone& backbone, const BackboneInput& in,
                 const ForwardContext& ctx) override {
    return {cross_entropy_sum(logits(backbone, in, ctx), in.labels,
                              ctx.training ? label_smoothing_ : 0),
            static_cast<double>(in.labels.numel())};
  }

  std::vector<Outcome> outcomes(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor p =
        logits(backbone, in, ctx).to(at::kDouble).softmax(1).t().contiguous();
    std::vector<Outcome> out;
    for (std::int64_t c = 0; c < outputs_; ++c) {
      out.push_back({at::full_like(in.labels, c), to_doubles(p.select(0, c))});
    }
    return out;
  }

  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor x = logits(backbone, in, ctx);
    const auto loss = to_doubles(cross_entropy_rows(x, in.labels));
    const auto best = to_doubles(x.argmax(1));
    const auto label = to_doubles(in.labels);
    std::vector<EvalRow> rows;
    for (std::size_t b = 0; b < loss.size(); ++b) {
      rows.push_back({in.sample_ids[b], label[b], best[b], loss[b], 1});
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor p =
        logits(backbone, in, ctx).softmax(1).contiguous().cpu();
    const auto best = to_doubles(p.argmax(1));
    const auto* scores = p.const_data_ptr<float>();
    std::vector<Prediction> out(in.sample_ids.size());
    for (std::size_t b = 0; b < out.size(); ++b, scores += outputs_) {
      out[b].sample = in.sample_ids[b];
      out[b].value = best[b];
      out[b].scores.assign(scores, scores + outputs_);
    }
    return out;
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    return {{"accuracy", accuracy(r.predictions, r.labels)},
            {"f1", binary_f1_ ? f1_of_class(r.predictions, r.labels, 1)
                              : f1_macro(r.predictions, r.labels)},
            {"matthews", matthews(r.predictions, r.labels)},
            {"loss", r.loss}};
  }
  std::string_view main_metric() const override { return "accuracy"; }

 private:
  const double label_smoothing_;
  bool binary_f1_;
};

}  // namespace

const TaskInfo& classify_task() {
  static const TaskInfo kInfo = {
      "classify", "one of a fixed number of classes per input", kFields,
      [](const TaskConfig& config) -> std::unique_ptr<Task> {
        return std::make_unique<Classify>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
