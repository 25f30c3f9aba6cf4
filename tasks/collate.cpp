#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/collate.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "base/error.h"

namespace thinwire {
namespace {

at::Tensor empty_int64(std::int64_t n) {
  return at::empty({n}, at::TensorOptions().dtype(at::kLong));
}

void check_token(const Sample& sample, std::string_view what, std::int64_t id,
                 std::int64_t end) {
  if (id < 0 || id >= end) {
    fail<UsageError>(
        "sample {}: {} {} is outside 0 to {} (was the data prepared with "
        "another tokenizer than the model's?)",
        sample.id, what, id, end - 1);
  }
}

// What the random numbers of each sample belong to.
std::vector<std::uint64_t> draw_ids(std::span<const Sample> samples) {
  std::vector<std::uint64_t> out;
  for (const Sample& sample : samples) out.push_back(sample.id ^ sample.salt);
  return out;
}

}  // namespace

BackboneInput collate_inputs(std::span<const Sample> samples,
                             const ModelConfig& config) {
  BackboneInput in;
  std::vector<std::int64_t> lengths;
  bool types = false;
  for (const Sample& sample : samples) {
    const auto n = static_cast<std::int64_t>(sample.input.size());
    if (config.max_positions > 0 && n > config.max_positions) {
      fail<UsageError>(
          "sample {}: {} tokens, the model takes at most {} (prepare the data "
          "with --max-tokens {})",
          sample.id, n, config.max_positions, config.max_positions);
    }
    if (!sample.types.empty() && sample.types.size() != sample.input.size()) {
      fail<UsageError>("sample {}: {} segment ids for {} tokens", sample.id,
                       sample.types.size(), n);
    }
    types = types || !sample.types.empty();
    lengths.push_back(n);
    in.sample_ids.push_back(sample.id);
    in.tasks.push_back(sample.task);
  }
  in.encoder.layout = make_layout(lengths, draw_ids(samples));
  in.encoder.tokens = empty_int64(in.encoder.layout.rows());
  auto* tokens = in.encoder.tokens.mutable_data_ptr<std::int64_t>();
  std::int64_t* type = nullptr;
  if (types) {
    in.encoder.types = empty_int64(in.encoder.layout.rows());
    type = in.encoder.types.mutable_data_ptr<std::int64_t>();
  }
  for (const Sample& sample : samples) {
    for (const std::int32_t id : sample.input) {
      check_token(sample, "token", id, config.vocab_size);
      *tokens++ = id;
    }
    if (type == nullptr) continue;
    for (std::size_t i = 0; i < sample.input.size(); ++i) {
      const std::int64_t id = sample.types.empty() ? 0 : sample.types[i];
      // Without a table of segments there is one segment.
      check_token(sample, "segment id", id,
                  std::max<std::int64_t>(1, config.type_vocab));
      *type++ = id;
    }
  }
  return in;
}

namespace {

// Tokens of the decoder and what they should be followed by: each of the
// sequences that lie end to end in the samples' targets, shifted right.
at::Tensor shift_right(std::span<const Sample> samples,
                       const std::vector<std::int64_t>& lengths,
                       const std::vector<std::uint64_t>& ids,
                       const ModelConfig& config, TokenStream& decoder) {
  decoder.layout = make_layout(lengths, ids);
  decoder.tokens = empty_int64(decoder.layout.rows());
  at::Tensor targets = empty_int64(decoder.layout.rows());
  auto* tokens = decoder.tokens.mutable_data_ptr<std::int64_t>();
  auto* wanted = targets.mutable_data_ptr<std::int64_t>();
  auto length = lengths.begin();
  for (const Sample& sample : samples) {
    for (auto it = sample.target.begin(); it != sample.target.end();) {
      std::int64_t before = config.decoder_start_id;
      for (const auto end = it + *length++; it != end; ++it) {
        check_token(sample, "target token", *it, config.vocab_size);
        *tokens++ = before;
        *wanted++ = before = *it;
      }
    }
  }
  return targets;
}

void need_target(const Sample& sample, const char* task) {
  if (sample.target.empty()) {
    fail<UsageError>(
        "sample {}: has no target; was the data prepared with --task {}?",
        sample.id, task);
  }
}

}  // namespace

void collate_targets(std::span<const Sample> samples, const ModelConfig& config,
                     BackboneInput& in) {
  std::vector<std::int64_t> lengths;
  for (const Sample& sample : samples) {
    need_target(sample, "text_to_text");
    lengths.push_back(std::ssize(sample.target));
  }
  in.labels =
      shift_right(samples, lengths, draw_ids(samples), config, in.decoder);
}

void collate_choices(std::span<const Sample> samples, const ModelConfig& config,
                     BackboneInput& in) {
  std::vector<std::int64_t> lengths;
  std::vector<std::uint64_t> ids;
  in.labels = empty_int64(std::ssize(samples));
  auto* label = in.labels.mutable_data_ptr<std::int64_t>();
  for (const Sample& sample : samples) {
    need_target(sample, "choose");
    const std::int64_t n = std::ssize(sample.choices);
    if (n < 2) {
      fail<UsageError>("sample {}: has {} choice; there must be two or more",
                       sample.id, n);
    }
    if (!(sample.label >= 0 && sample.label < static_cast<double>(n))) {
      fail<UsageError>("sample {}: answer {} is none of its {} choices",
                       sample.id, sample.label, n);
    }
    *label++ = static_cast<std::int64_t>(sample.label);
    in.choices.push_back(n);
    lengths.insert(lengths.end(), sample.choices.begin(), sample.choices.end());
    ids.insert(ids.end(), sample.choices.size(), sample.id ^ sample.salt);
  }
  in.targets = shift_right(samples, lengths, ids, config, in.decoder);
}

EvalRows split_rows(std::span<const EvalRow> rows) {
  THINWIRE_ASSERT(!rows.empty(), "no rows to measure");
  EvalRows out;
  double sum = 0, weight = 0;
  for (const EvalRow& row : rows) {
    out.labels.push_back(row.label);
    out.predictions.push_back(row.prediction);
    sum += row.loss_sum;
    weight += row.loss_weight;
  }
  out.loss = weight > 0 ? sum / weight : 0;
  return out;
}

std::vector<double> to_doubles(const at::Tensor& x) {
  const at::Tensor d = x.detach().to(at::kDouble).contiguous().cpu();
  const auto* p = d.const_data_ptr<double>();
  return {p, p + d.numel()};
}

}  // namespace thinwire
