// Language modelling by a decoder-only model: every token given those before
// it; of a sample that has a target (a prompt and what should follow) the
// target's tokens alone. Within a sequence row t is asked for token t + 1, as
// HF shifts its labels; the first token is asked of no row, nor of what a
// method puts in front of it. Text is written behind a prompt, which has to
// have a token.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "ops/loss.h"
#include "tasks/collate.h"
#include "tasks/writing_task.h"

namespace thinwire {
namespace {

// The prompts of these sequences, without their targets.
BackboneInput prompts_of(const BackboneInput& in,
                         const std::vector<std::size_t>& which) {
  BackboneInput out;
  std::vector<std::int64_t> tokens;
  const auto* all = in.encoder.tokens.const_data_ptr<std::int64_t>();
  for (const std::size_t b : which) {
    const auto* first = all + in.encoder.layout.offsets[b];
    tokens.insert(tokens.end(), first, first + in.prompts[b]);
    out.prompts.push_back(in.prompts[b]);
    out.sample_ids.push_back(in.sample_ids[b]);
    out.tasks.push_back(in.tasks[b]);
  }
  out.encoder.layout = make_layout(out.prompts, out.sample_ids);
  out.encoder.tokens = at::tensor(tokens, at::kLong);
  return out;
}

class LanguageModel : public WritingTask {
 public:
  using WritingTask::WritingTask;

  std::string_view kind() const override { return "lm"; }
  Answer answer() const override { return Answer::kLoss; }

  void add_head(Backbone& backbone, TensorSource&) override {
    if (backbone.config().decoder_only) return;
    fail<UsageError>(
        "task.kind: lm needs a model that is a decoder only, such as gpt2; {} "
        "is {}",
        backbone.config().architecture,
        backbone.config().decoder_layers > 0
            ? "an encoder-decoder: use text_to_text"
            : "an encoder: use classify or regress");
  }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    std::vector<Sample> whole(samples.begin(), samples.end());
    for (Sample& s : whole) {
      s.input.insert(s.input.end(), s.target.begin(), s.target.end());
      if (!s.types.empty()) s.types.resize(s.input.size());
    }
    BackboneInput in = collate_inputs(whole, config);
    in.labels = at::full({in.encoder.layout.rows()}, kIgnoredLabel,
                         in.encoder.tokens.options());
    auto* labels = in.labels.mutable_data_ptr<std::int64_t>();
    for (std::size_t i = 0; i < whole.size(); ++i) {
      const std::size_t n = whole[i].input.size();
      const std::size_t prompt =
          samples[i].target.empty() ? 0 : samples[i].input.size();
      in.prompts.push_back(static_cast<std::int64_t>(prompt));
      if (n < 2) {
        fail<UsageError>("sample {}: one token leaves nothing to predict",
                         whole[i].id);
      }
      for (std::size_t t = std::max<std::size_t>(prompt, 1); t < n; ++t) {
        labels[t - 1] = whole[i].input[t];
      }
      labels += n;
    }
    return in;
  }

  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const auto all = scores(backbone, in, ctx);
    std::vector<EvalRow> rows;
    for (std::size_t b = 0; b < all.size(); ++b) {
      const auto tokens = static_cast<double>(all[b].tokens);
      rows.push_back({in.sample_ids[b], tokens,
                      static_cast<double>(all[b].likeliest), all[b].loss,
                      tokens});
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    std::vector<std::size_t> prompted;
    for (std::size_t b = 0; b < in.prompts.size(); ++b) {
      if (in.prompts[b] > 0) prompted.push_back(b);
    }
    std::vector<Prediction> out(in.sample_ids.size());
    if (prompted.size() < out.size()) {
      const auto all = scores(backbone, in, ctx);
      for (std::size_t b = 0; b < out.size(); ++b) {
        out[b].sample = in.sample_ids[b];
        out[b].value = all[b].loss / static_cast<double>(all[b].tokens);
      }
    }
    if (prompted.empty()) return out;
    auto texts = write(backbone, prompts_of(in, prompted), ctx);
    for (std::size_t i = 0; i < prompted.size(); ++i) {
      out[prompted[i]] = std::move(texts[i]);
    }
    return out;
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    double tokens = 0, likeliest = 0;
    for (const EvalRow& row : rows) {
      tokens += row.label;
      likeliest += row.prediction;
    }
    Metrics out{{"loss", r.loss},
                {"perplexity", std::exp(r.loss)},
                {"token_accuracy", likeliest / tokens}};
    judged().add_to(out, rows);
    return out;
  }
  std::string_view main_metric() const override {
    return judged().any() ? judged().main_metric() : "loss";
  }
};

}  // namespace

const TaskInfo& lm_task() {
  static const TaskInfo kInfo = {
      "lm", "the next token, or a target's tokens behind a prompt",
      writing_fields(), [](const TaskConfig& config) -> std::unique_ptr<Task> {
        return std::make_unique<LanguageModel>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
