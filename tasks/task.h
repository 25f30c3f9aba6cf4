// What a run optimises and measures: collation, head, loss, predictions,
// metrics. One file per task kind, a line in tasks/tasks.def.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/field.h"
#include "base/sample.h"
#include "models/backbone.h"
#include "models/tensor_source.h"

namespace thinwire {

struct LossTerms {
  at::Tensor sum;     // scalar, differentiable: a sum, not a mean
  double weight = 0;  // examples, or target tokens that are not ignored
};

// One evaluated sample. Rows of all ranks are gathered and ordered by position
// before metrics are taken, so every rank computes the same figures.
struct EvalRow {
  std::uint64_t sample = 0;
  double label = 0;
  // Class, value, 1 where the text matched exactly, or (lm, of `label` tokens)
  // how many were the likeliest.
  double prediction = 0;
  double loss_sum = 0;
  double loss_weight = 0;
  std::vector<double> figures = {};  // text_figures(), if the task judges texts
};

// What `predict` writes for one sample.
struct Prediction {
  std::uint64_t sample = 0;
  // Class index, regression value, score of a written text, or (lm, of a text
  // without a prompt) mean loss of a token.
  double value = 0;
  std::vector<float> scores;  // classify, choose: probabilities
  // Of a text, written or (choose) chosen; none: there is no text.
  std::optional<std::vector<std::int32_t>> tokens;
};

// What a prediction says of its sample: a class, with the probabilities of all;
// a value, judged by its squared error; a text and its score; a loss alone.
enum class Answer { kClass, kValue, kText, kLoss };

using Metrics = std::map<std::string, double>;

class Task {
 public:
  virtual ~Task() = default;
  virtual std::string_view kind() const = 0;
  virtual Answer answer() const = 0;

  // Adds the head's parameter slots (head = true; HF's names, e.g.
  // classifier.weight) and linear sites to the backbone, from the checkpoint
  // where it has them, else random by name. Tasks that use the LM head add
  // nothing.
  virtual void add_head(Backbone& backbone, TensorSource& source) = 0;

  // Checks (lengths against max_positions, label range, tokens against the
  // vocabulary: UsageError naming sample id, value and range) and packs.
  // Longer inputs than `max_tokens` were cut at preparation; here they are an
  // error.
  virtual BackboneInput collate(std::span<const Sample> samples,
                                const ModelConfig& config) const = 0;

  virtual LossTerms loss(Backbone& backbone, const BackboneInput& in,
                         const ForwardContext& ctx) = 0;

  // Logits by HF's shape: [B, labels], or [T, V] packed, rows of the decoder.
  virtual at::Tensor logits(Backbone& backbone, const BackboneInput& in,
                            const ForwardContext& ctx) = 0;

  // For the true Fisher: what the labels of a batch could have been, and with
  // which probability, for each sample. Classification: every class. Text: one
  // target drawn from the model (base/random.h, key), weight 1. Regression: the
  // model's own value + and - 1 standard deviation of the Gaussian with
  // variance 1/2, weight 1/2 each. Returns replacements for in.labels.
  struct Outcome {
    at::Tensor labels;
    std::vector<double> probabilities;  // [B]
  };
  virtual std::vector<Outcome> outcomes(Backbone& backbone,
                                        const BackboneInput& in,
                                        const ForwardContext& ctx) = 0;

  // Evaluation mode, no graph.
  virtual std::vector<EvalRow> evaluate(Backbone& backbone,
                                        const BackboneInput& in,
                                        const ForwardContext& ctx) = 0;
  virtual std::vector<Prediction> predict(Backbone& backbone,
                                          const BackboneInput& in,
                                          const ForwardContext& ctx) = 0;
  // Whether samples are also judged by the text that predict() gives and by
  // the shards' references: evaluation then puts text_figures() into each row.
  virtual bool judges_texts() const { return false; }
  // Of a decoded text (UTF-8) and its references, at least one.
  virtual std::vector<double> text_figures(
      const std::string& text, std::span<const std::string> references) const;
  // rows: of all ranks. Names as in metrics.jsonl: accuracy, f1, matthews,
  // pearson, spearman, exact_match, loss, perplexity, token_accuracy; of texts
  // rouge1, rouge2, rouge_l, bleu, exact_match, f1.
  virtual Metrics metrics(std::span<const EvalRow> rows) const = 0;
  // The metric `best/` and early stop follow unless the config names one, and
  // whether more is better.
  virtual std::string_view main_metric() const = 0;
};

using TaskConfig = nlohmann::ordered_json;  // every field present

struct TaskInfo {
  std::string_view kind;
  std::string_view about;
  std::span<const Field> fields;  // e.g. labels, metrics, max_new_tokens
  std::unique_ptr<Task> (*make)(const TaskConfig& config);
};

std::span<const TaskInfo> tasks();
const TaskInfo& find_task(std::string_view kind);  // UsageError, lists kinds

}  // namespace thinwire
