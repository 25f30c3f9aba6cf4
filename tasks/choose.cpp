// One of several given answers per input, by an encoder-decoder: the answer
// whose tokens the model finds likeliest is chosen (rank classification).
// Liu et al. 2022, "Few-shot parameter-efficient fine-tuning is better and
// cheaper than in-context learning" (T-Few), sec. 3.2. For an example with
// choices n of m_n tokens t and log-probabilities l(n, t), the right one c:
//   lm                 -1/m_c sum_t l(c, t)
//   length_normalised  cross-entropy of softmax_n(-score_n) and c,
//                      score_n = -sum_t l(n, t) / m_n^length_norm
//   unlikelihood       -sum over n != c, t of log(1 - exp l(n, t) + 0.01)
//                      / sum over n != c of m_n
// Differs from the reference code where a batch has several examples: means
// over tokens are an example's own, so that ranks and micro-batches do not
// matter (as there with one example a batch); its constant for tokens that do
// not count is left out.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "ops/reference.h"
#include "tasks/collate.h"
#include "tasks/metrics.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

constexpr double kAboveOne = 0.01;  // keeps the logarithm finite

constexpr Field kFields[] = {
    {"lm", FieldType::kFloat, "1", "weight of the right answer's own loss"},
    {"length_normalised", FieldType::kFloat, "1",
     "weight of the loss that compares the answers' scores"},
    {"unlikelihood", FieldType::kFloat, "1",
     "weight of the loss that makes wrong answers unlikely"},
    {"length_norm", FieldType::kFloat, "1",
     "power of an answer's length that divides its score"},
};

template <class T>
at::Tensor tensor_of(const std::vector<T>& values, at::ScalarType type,
                     const at::Tensor& device) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(values.size())},
                             at::TensorOptions().dtype(type));
  std::ranges::copy(values, out.mutable_data_ptr<T>());
  return beside(out, device);
}

// The encoder's states once for each answer.
BackboneOutput repeated(const BackboneOutput& out, const BackboneInput& in) {
  std::vector<std::int64_t> rows, lengths;
  std::vector<std::uint64_t> samples;
  const auto& offsets = out.layout.offsets;
  const auto* sample = out.layout.samples.const_data_ptr<std::int64_t>();
  for (std::size_t b = 0; b < in.choices.size(); ++b) {
    for (std::int64_t n = 0; n < in.choices[b]; ++n) {
      samples.push_back(static_cast<std::uint64_t>(sample[offsets[b]]));
      lengths.push_back(offsets[b + 1] - offsets[b]);
      for (std::int64_t t = offsets[b]; t < offsets[b + 1]; ++t) {
        rows.push_back(t);
      }
    }
  }
  // Of a stack that has not run there are none but the side's.
  const at::Tensor which =
      tensor_of(rows, at::kLong, out.hidden.defined() ? out.hidden : out.side);
  BackboneOutput all;
  if (out.hidden.defined()) all.hidden = out.hidden.index_select(0, which);
  if (out.side.defined()) all.side = out.side.index_select(0, which);
  all.layout = make_layout(lengths, samples);
  return all;
}

// Of a batch's answers, in their order: which sample each is of, and where in
// it.
struct Answers {
  explicit Answers(const BackboneInput& in) {
    const auto& ends = in.decoder.layout.offsets;
    for (std::size_t b = 0; b < in.choices.size(); ++b) {
      most = std::max(most, in.choices[b]);
      first.push_back(static_cast<std::int64_t>(sample.size()));
      for (std::int64_t n = 0; n < in.choices[b]; ++n) {
        const std::size_t i = sample.size();
        sample.push_back(static_cast<std::int64_t>(b));
        place.push_back(n);
        length.push_back(static_cast<double>(ends[i + 1] - ends[i]));
        of_token.insert(of_token.end(),
                        static_cast<std::size_t>(ends[i + 1] - ends[i]),
                        static_cast<std::int64_t>(i));
      }
    }
  }
  std::vector<std::int64_t> first;          // [B] answer number
  std::vector<std::int64_t> sample, place;  // [answers]
  std::vector<double> length;               // [answers] tokens
  std::vector<std::int64_t> of_token;       // [tokens] answer number
  std::int64_t most = 0;                    // answers of one sample
};

// Sums of x [n] by group [n] -> [groups].
at::Tensor sums(const at::Tensor& x, const at::Tensor& group,
                std::int64_t groups) {
  return at::zeros({groups}, x.options()).index_add(0, group, x);
}

class Choose : public Task {
 public:
  explicit Choose(const TaskConfig& config)
      : lm_(weight(config, "lm")),
        normalised_(weight(config, "length_normalised")),
        unlikelihood_(weight(config, "unlikelihood")),
        length_norm_(weight(config, "length_norm")) {
    if (lm_ + normalised_ + unlikelihood_ == 0) {
      fail<UsageError>(
          "task: lm, length_normalised and unlikelihood are all 0, so there is "
          "no loss");
    }
  }

  std::string_view kind() const override { return "choose"; }
  Answer answer() const override { return Answer::kClass; }

  void add_head(Backbone& backbone, TensorSource&) override {
    if (backbone.config().decoder_layers == 0) {
      fail<UsageError>(
          "task.kind: choose needs an encoder-decoder, {} has no decoder; use "
          "a t5 model, or classify",
          backbone.config().architecture);
    }
  }

  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    BackboneInput in = collate_inputs(samples, config);
    collate_choices(samples, config, in);
    return in;
  }

  LossTerms loss(Backbone& backbone, const BackboneInput& in,
                 const ForwardContext& ctx) override {
    return {examples(backbone, in, ctx).loss.sum(),
            static_cast<double>(in.choices.size())};
  }

  // [tokens of all answers, V], packed.
  at::Tensor logits(Backbone& backbone, const BackboneInput& in,
                    const ForwardContext& ctx) override {
    const BackboneOutput out =
        backbone.decode(repeated(backbone.encode(in, ctx), in), in, ctx);
    ForwardContext rows = ctx;
    rows.layout = &in.decoder.layout;
    return backbone.lm_logits(out.token_states(), rows);
  }

  std::vector<Outcome> outcomes(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor p = examples(backbone, in, ctx).scores.softmax(1);
    std::vector<Outcome> out;
    for (std::int64_t c = 0; c < p.size(1); ++c) {
      std::vector<std::int64_t> labels;
      for (const std::int64_t n : in.choices) {
        labels.push_back(std::min(c, n - 1));  // of probability 0 beyond
      }
      out.push_back({tensor_of(labels, at::kLong, in.labels),
                     to_doubles(p.select(1, c))});
    }
    return out;
  }

  std::vector<EvalRow> evaluate(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const Examples e = examples(backbone, in, ctx);
    const auto best = to_doubles(e.scores.argmax(1));
    const auto loss = to_doubles(e.loss), label = to_doubles(in.labels);
    std::vector<EvalRow> rows;
    for (std::size_t b = 0; b < loss.size(); ++b) {
      rows.push_back({in.sample_ids[b], label[b], best[b], loss[b], 1});
    }
    return rows;
  }

  std::vector<Prediction> predict(Backbone& backbone, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    const at::NoGradGuard no_grad;
    const at::Tensor scores = examples(backbone, in, ctx).scores;
    const auto best = to_doubles(scores.argmax(1));
    const at::Tensor p = scores.softmax(1).contiguous().cpu();
    const at::Tensor targets = in.targets.cpu();
    const auto* token = targets.const_data_ptr<std::int64_t>();
    const auto& ends = in.decoder.layout.offsets;
    std::vector<Prediction> out(in.choices.size());
    std::size_t answer = 0;
    for (std::size_t b = 0; b < out.size(); ++b) {
      const auto* row =
          p.const_data_ptr<float>() + static_cast<std::int64_t>(b) * p.size(1);
      out[b].sample = in.sample_ids[b];
      out[b].value = best[b];
      out[b].scores.assign(row, row + in.choices[b]);
      const std::size_t chosen = answer + static_cast<std::size_t>(best[b]);
      out[b].tokens.emplace(token + ends[chosen], token + ends[chosen + 1]);
      answer += static_cast<std::size_t>(in.choices[b]);
    }
    return out;
  }

  Metrics metrics(std::span<const EvalRow> rows) const override {
    const EvalRows r = split_rows(rows);
    return {{"accuracy", accuracy(r.predictions, r.labels)},
            {"f1", f1_macro(r.predictions, r.labels)},
            {"loss", r.loss}};
  }
  std::string_view main_metric() const override { return "accuracy"; }

 private:
  static double weight(const TaskConfig& config, const char* name) {
    const auto value = config.at(name).get<double>();
    if (!(value >= 0) || !std::isfinite(value)) {
      fail<UsageError>("task.{} is {}; it must be at least 0", name, value);
    }
    return value;
  }

  struct Examples {
    at::Tensor loss;    // [B]
    at::Tensor scores;  // [B, most answers], higher is better; -inf: none
  };

  Examples examples(Backbone& backbone, const BackboneInput& in,
                    const ForwardContext& ctx) {
    const at::Tensor x = logits(backbone, in, ctx);
    const auto batch = static_cast<std::int64_t>(in.choices.size());
    const Answers answers(in);
    const auto count = static_cast<std::int64_t>(answers.sample.size());
    const at::Tensor of_token = tensor_of(answers.of_token, at::kLong, x);
    const at::Tensor sample = tensor_of(answers.sample, at::kLong, x);
    const at::Tensor place = tensor_of(answers.place, at::kLong, x);
    const at::Tensor length =
        tensor_of(answers.length, at::kDouble, x).to(at::kFloat);
    const at::Tensor labels = beside(in.labels, x);
    const at::Tensor right = tensor_of(answers.first, at::kLong, x).add(labels);

    const at::Tensor likelihood =
        x.log_softmax(1)
            .gather(1, beside(in.targets, x).unsqueeze(1))
            .squeeze(1);
    const at::Tensor total = sums(likelihood, of_token, count);
    Examples out;
    out.scores =
        at::full({batch, answers.most}, -std::numeric_limits<float>::infinity(),
                 x.options())
            .index_put({sample, place}, total.div(length.pow(length_norm_)));
    out.loss = at::zeros({batch}, x.options());
    if (lm_ > 0) {
      out.loss = out.loss.sub(total.div(length).index_select(0, right), lm_);
    }
    if (normalised_ > 0) {
      out.loss = out.loss.sub(
          out.scores.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1),
          normalised_);
    }
    if (unlikelihood_ > 0) {
      const at::Tensor wrong =
          at::full({count}, 1, x.options()).index_fill(0, right, 0);
      const at::Tensor terms = likelihood.exp().neg().add(1 + kAboveOne).log();
      const at::Tensor by_answer = sums(terms, of_token, count).mul(wrong);
      out.loss = out.loss.sub(sums(by_answer, sample, batch)
                                  .div(sums(length.mul(wrong), sample, batch)),
                              unlikelihood_);
    }
    return out;
  }

  double lm_, normalised_, unlikelihood_, length_norm_;
};

}  // namespace

const TaskInfo& choose_task() {
  static const TaskInfo kInfo = {
      "choose", "the likeliest of given answers, by an encoder-decoder (T-Few)",
      kFields, [](const TaskConfig& config) -> std::unique_ptr<Task> {
        return std::make_unique<Choose>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
