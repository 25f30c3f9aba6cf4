#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/text_to_text.h"

#include "base/error.h"
#include "tasks/collate.h"
#include "tasks/writing_task.h"

namespace thinwire {
namespace {

class TextToText : public WritingTask {
 public:
  TextToText(std::string_view kind, const TaskConfig& config)
      : WritingTask(config), kind_(kind) {}

  std::string_view kind() const override { return kind_; }
  Answer answer() const override { return Answer::kText; }

  void add_head(Backbone& backbone, TensorSource&) override {
    if (backbone.config().decoder_layers == 0) {
      fail<UsageError>(
          "task.kind: {} needs an encoder-decoder, {} has no decoder; use a "
          "bart or t5 model, or classify or regress",
          kind_, backbone.config().architecture);
    }
  }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    BackboneInput in = collate_inputs(samples, config);
    collate_targets(samples, config, in);
    return in;
  }

  // Greedy decoding gives the target exactly if, with the target's own tokens
  // before it, every target token is the likeliest: no decoding is needed.
  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const auto all = scores(backbone, in, ctx);
    std::vector<EvalRow> rows;
    for (std::size_t b = 0; b < all.size(); ++b) {
      rows.push_back({in.sample_ids[b], 1,
                      all[b].likeliest == all[b].tokens ? 1.0 : 0.0,
                      all[b].loss, static_cast<double>(all[b].tokens)});
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    return write(backbone, in, ctx);
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    double matches = 0;
    for (const double match : r.predictions) matches += match;
    Metrics out{{"exact_match", matches / static_cast<double>(rows.size())},
                {"loss", r.loss}};
    judged().add_to(out, rows);
    return out;
  }
  std::string_view main_metric() const override {
    if (judged().any()) return judged().main_metric();
    return kind_ == "span_corruption" ? "loss" : "exact_match";
  }

 private:
  std::string_view kind_;
};

}  // namespace

std::unique_ptr<Task> make_text_to_text(std::string_view kind,
                                        const TaskConfig& config) {
  return std::make_unique<TextToText>(kind, config);
}

const TaskInfo& text_to_text_task() {
  static const TaskInfo kInfo = {
      "text_to_text", "text in, text out, by an encoder-decoder",
      writing_fields(), [](const TaskConfig& config) {
        return make_text_to_text("text_to_text", config);
      }};
  return kInfo;
}

}  // namespace thinwire
