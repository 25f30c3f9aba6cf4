#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/text_to_text.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/error.h"
#include "base/random.h"
#include "ops/linear_cross_entropy.h"
#include "ops/loss.h"
#include "ops/reference.h"
#include "tasks/collate.h"
#include "tasks/decoding.h"
#include "tasks/generate.h"
#include "tasks/judged_texts.h"

namespace thinwire {
namespace {

// Hidden states of the targets' rows, without what a method put between them.
at::Tensor token_states(Backbone& backbone, const BackboneInput& in,
                        const ForwardContext& ctx) {
  const BackboneOutput out = backbone.forward(in, ctx);
  return out.token_rows.defined()
             ? out.hidden.index_select(0, beside(out.token_rows, out.hidden))
             : out.hidden;
}

ForwardContext of_tokens(const BackboneInput& in, ForwardContext ctx) {
  ctx.layout = &in.decoder.layout;
  return ctx;
}

class TextToText : public Task {
 public:
  TextToText(std::string_view kind, const TaskConfig& config)
      : kind_(kind), decoding_(read_decoding(config)), judged_(config) {}

  std::string_view kind() const override { return kind_; }

  void add_head(Backbone& backbone, TensorSource&) override {
    if (backbone.config().decoder_layers == 0) {
      fail<UsageError>(
          "task.kind: {} needs an encoder-decoder, {} has no decoder; use a t5 "
          "model, or classify or regress",
          kind_, backbone.config().architecture);
    }
  }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    BackboneInput in = collate_inputs(samples, config);
    collate_targets(samples, config, in);
    return in;
  }

  LossTerms loss(Backbone& backbone, const BackboneInput& in,
                 const ForwardContext& ctx) override {
    return {backbone.lm_loss(token_states(backbone, in, ctx), in.labels,
                             of_tokens(in, ctx)),
            in.labels.ne(kIgnoredLabel).sum().item<double>()};
  }

  at::Tensor logits(Backbone& backbone, const BackboneInput& in,
                    const ForwardContext& ctx) override {
    return backbone.lm_logits(token_states(backbone, in, ctx),
                              of_tokens(in, ctx));
  }

  // Each token is drawn given the example's own tokens before it.
  std::vector<Outcome> outcomes(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor below = logits(backbone, in, ctx)
                                 .to(at::kDouble)
                                 .softmax(1)
                                 .cumsum(1)
                                 .contiguous()
                                 .cpu();
    const std::int64_t vocabulary = below.size(1);
    at::Tensor drawn = at::empty({below.size(0)}, in.labels.options());
    const auto* given = in.labels.const_data_ptr<std::int64_t>();
    auto* out = drawn.mutable_data_ptr<std::int64_t>();
    const PhiloxKey key = make_key(ctx.seed, Purpose::kScore, ctx.step);
    const auto& offsets = in.decoder.layout.offsets;
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      const std::uint64_t sample = in.sample_ids[b];
      for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
        out[t] = kIgnoredLabel;
        if (given[t] == kIgnoredLabel) continue;
        const double u = uniform01(
            philox(key, {static_cast<std::uint32_t>(t - offsets[b]), 0,
                         static_cast<std::uint32_t>(sample),
                         static_cast<std::uint32_t>(sample >> 32)})[0]);
        // The total is 1 up to rounding; the scale leaves none outside.
        const auto* row = below.const_data_ptr<double>() + t * vocabulary;
        const auto* end = row + vocabulary - 1;
        out[t] = std::upper_bound(row, end, u * *end) - row;
      }
    }
    return {{std::move(drawn), std::vector<double>(in.sample_ids.size(), 1)}};
  }

  // Greedy decoding gives the target exactly if, with the target's own tokens
  // before it, every target token is the likeliest: no decoding is needed.
  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const TokenLosses tokens = backbone.lm_token_losses(
        token_states(backbone, in, ctx), in.labels, of_tokens(in, ctx));
    const auto loss = to_doubles(tokens.loss);
    const at::Tensor best = tokens.best.cpu();
    const auto* likeliest = best.const_data_ptr<std::int64_t>();
    const auto* label = in.labels.const_data_ptr<std::int64_t>();
    std::vector<EvalRow> rows;
    const auto& offsets = in.decoder.layout.offsets;
    for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
      EvalRow row{in.sample_ids[b], 1, 1, 0, 0};
      for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
        if (label[t] == kIgnoredLabel) continue;
        if (likeliest[t] != label[t]) row.prediction = 0;
        row.loss_sum += loss[static_cast<std::size_t>(t)];
        ++row.loss_weight;
      }
      rows.push_back(row);
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    auto texts = generate(backbone, in, ctx, decoding_);
    std::vector<Prediction> out(texts.size());
    for (std::size_t b = 0; b < out.size(); ++b) {
      out[b].sample = in.sample_ids[b];
      out[b].value = texts[b].score;
      out[b].tokens = std::move(texts[b].tokens);
    }
    return out;
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    double matches = 0;
    for (const double match : r.predictions) matches += match;
    Metrics out{{"exact_match", matches / static_cast<double>(rows.size())},
                {"loss", r.loss}};
    judged_.add_to(out, rows);
    return out;
  }
  std::string_view main_metric() const override {
    if (judged_.any()) return judged_.main_metric();
    return kind_ == "span_corruption" ? "loss" : "exact_match";
  }

  bool judges_texts() const override { return judged_.any(); }
  std::vector<double> text_figures(
      const std::string& text,
      std::span<const std::string> references) const override {
    return judged_.figures(text, references);
  }

 private:
  std::string_view kind_;
  Decoding decoding_;
  JudgedTexts judged_;
};

}  // namespace

std::span<const Field> text_to_text_fields() {
  static const auto kFields = [] {
    std::vector<Field> out(decoding_fields().begin(), decoding_fields().end());
    const auto more = judged_texts_fields();
    out.insert(out.end(), more.begin(), more.end());
    return out;
  }();
  return kFields;
}

std::unique_ptr<Task> make_text_to_text(std::string_view kind,
                                        const TaskConfig& config) {
  return std::make_unique<TextToText>(kind, config);
}

const TaskInfo& text_to_text_task() {
  static const TaskInfo kInfo = {
      "text_to_text", "text in, text out, by an encoder-decoder",
      text_to_text_fields(), [](const TaskConfig& config) {
        return make_text_to_text("text_to_text", config);
      }};
  return kInfo;
}

}  // namespace thinwire
