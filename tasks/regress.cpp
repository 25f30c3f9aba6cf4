// One number per input: BERT's pooled vector, a linear head with one output,
// squared error.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <cmath>

#include "base/error.h"
#include "ops/loss.h"
#include "tasks/collate.h"
#include "tasks/metrics.h"
#include "tasks/pooled_head.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"head_seed", FieldType::kInt, "1",
     "of the head's weights where the checkpoint has none"},
};

class Regress : public PooledTask {
 public:
  explicit Regress(const TaskConfig& config)
      : PooledTask(1, config.at("head_seed").get<std::uint64_t>()) {}

  std::string_view kind() const override { return "regress"; }
  Answer answer() const override { return Answer::kValue; }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    BackboneInput in = collate_inputs(samples, config);
    in.labels = at::empty({static_cast<std::int64_t>(samples.size())});
    auto* labels = in.labels.mutable_data_ptr<float>();
    for (const Sample& sample : samples) {
      *labels = static_cast<float>(sample.label);
      if (!std::isfinite(*labels++)) {
        fail<UsageError>("sample {}: label {} is not a finite number in fp32",
                         sample.id, sample.label);
      }
    }
    return in;
  }

  LossTerms loss(Backbone& backbone, const BackboneInput& in,
                 const ForwardContext& ctx) override {
    return {squared_error_sum(logits(backbone, in, ctx), in.labels),
            static_cast<double>(in.labels.numel())};
  }

  // The squared error is -log of a Gaussian of variance 1/2, up to a constant.
  std::vector<Outcome> outcomes(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor value = logits(backbone, in, ctx).flatten();
    const double deviation = std::sqrt(0.5);
    const std::vector<double> half(in.sample_ids.size(), 0.5);
    return {{value.add(deviation), half}, {value.sub(deviation), half}};
  }

  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const auto value = to_doubles(logits(backbone, in, ctx).flatten());
    const auto label = to_doubles(in.labels);
    std::vector<EvalRow> rows;
    for (std::size_t b = 0; b < value.size(); ++b) {
      const double error = value[b] - label[b];
      rows.push_back({in.sample_ids[b], label[b], value[b], error * error, 1});
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const auto value = to_doubles(logits(backbone, in, ctx).flatten());
    std::vector<Prediction> out(value.size());
    for (std::size_t b = 0; b < value.size(); ++b) {
      out[b].sample = in.sample_ids[b];
      out[b].value = value[b];
    }
    return out;
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    return {{"pearson", pearson(r.predictions, r.labels)},
            {"spearman", spearman(r.predictions, r.labels)},
            {"loss", r.loss}};
  }
  std::string_view main_metric() const override { return "pearson"; }
};

}  // namespace

const TaskInfo& regress_task() {
  static const TaskInfo kInfo = {
      "regress", "one number per input, squared error", kFields,
      [](const TaskConfig& config) -> std::unique_ptr<Task> {
        return std::make_unique<Regress>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
