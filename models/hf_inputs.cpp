#include "models/hf_inputs.h"

#include <algorithm>
#include <map>
#include <numeric>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include "base/error.h"
#include "base/nearest.h"

namespace thinwire {
namespace {

constexpr std::int64_t kIgnored = -100;

class Inputs {
 public:
  Inputs(const NamedTensors& tensors, std::vector<std::string> known) {
    for (const auto& [name, tensor] : tensors) {
      if (std::find(known.begin(), known.end(), name) == known.end()) {
        fail<UsageError>("inputs: '{}' is unknown; this model takes: {}", name,
                         list_nearest_first(name, known));
      }
      tensors_.emplace(name, tensor);
    }
  }

  bool has(const std::string& name) const { return tensors_.contains(name); }

  const at::Tensor& get(const std::string& name) const {
    if (!has(name)) fail<UsageError>("inputs: '{}' is missing", name);
    return tensors_.at(name);
  }

  // int64 [B, L]; undefined when absent and not required.
  at::Tensor whole(const std::string& name, at::IntArrayRef shape = {},
                   bool required = false) const {
    if (!required && !has(name)) return {};
    const at::Tensor& t = get(name);
    if (t.dim() != 2 || (!shape.empty() && t.sizes() != shape)) {
      fail<UsageError>("inputs: '{}' must have shape [{}], got [{}]", name,
                       shape.empty()
                           ? "batch, length"
                           : fmt::format("{}", fmt::join(shape, ", ")),
                       fmt::join(t.sizes(), ", "));
    }
    if (t.is_floating_point() || t.is_complex()) {
      fail<UsageError>("inputs: '{}' must hold integers, got {}", name,
                       c10::toString(t.scalar_type()));
    }
    return t.to(at::kLong).contiguous();
  }

 private:
  std::map<std::string, at::Tensor> tensors_;
};

void check_range(const char* name, const at::Tensor& ids, std::int64_t end,
                 bool ignored_allowed = false) {
  const std::int64_t* p = ids.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < ids.numel(); ++i) {
    if (p[i] >= 0 && p[i] < end) continue;
    if (ignored_allowed && p[i] == kIgnored) continue;
    fail<UsageError>("inputs: '{}' holds {} at element {}; allowed are 0 to {}",
                     name, p[i], i, end - 1);
  }
}

// ids, mask [B, L]; a mask that is undefined hides nothing. padding: RoBERTa's,
// which counts positions over the other tokens alone; else they are columns.
TokenStream pack(const char* name, const at::Tensor& ids, at::Tensor mask,
                 HfCells& cells, std::int64_t padding = -1) {
  cells.batch = ids.size(0);
  cells.length = ids.size(1);
  if (!mask.defined()) mask = at::ones_like(ids);
  const std::int64_t* m = mask.const_data_ptr<std::int64_t>();
  const std::int64_t* id = ids.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> lengths, positions, rows;
  bool holes = false;
  for (std::int64_t b = 0; b < cells.batch; ++b) {
    std::int64_t n = 0, padded = 0;
    for (std::int64_t i = 0; i < cells.length; ++i) {
      const std::int64_t cell = b * cells.length + i;
      if (padding >= 0 && id[cell] == padding) ++padded;
      if (m[cell] == 0) {
        cells.first_hidden |= i == 0;
        continue;
      }
      if (m[cell] != 1) {
        fail<UsageError>(
            "inputs: '{}' holds {} at element {}; allowed are 0 "
            "and 1",
            name, m[cell], cell);
      }
      if (padding >= 0 && id[cell] == padding) {
        fail<UsageError>(
            "inputs: 'input_ids' holds the padding token {} at element {}, "
            "which '{}' does not hide",
            padding, cell, name);
      }
      holes |= i - padded != n;
      positions.push_back(i - padded);
      rows.push_back(cell);
      ++n;
    }
    if (n == 0) fail<UsageError>("inputs: '{}' hides all of row {}", name, b);
    lengths.push_back(n);
  }
  if (lengths.empty()) fail<UsageError>("inputs: the batch is empty");
  if (!holes) positions.clear();
  std::vector<std::uint64_t> samples(lengths.size());
  std::iota(samples.begin(), samples.end(), std::uint64_t{0});

  cells.rows = at::tensor(rows, at::kLong);
  TokenStream stream;
  stream.layout = make_layout(lengths, samples, positions);
  stream.tokens = ids.flatten().index_select(0, cells.rows);
  return stream;
}

// One label per sequence.
void read_labels(const Inputs& in, const ModelConfig& config, HfBatch& out) {
  if (!in.has("labels")) return;
  at::Tensor labels = in.get("labels").contiguous();
  if (labels.dim() == 2 && labels.size(1) == 1) labels = labels.squeeze(1);
  const std::int64_t batch = out.encoder.batch;
  if (labels.dim() != 1 || labels.size(0) != batch) {
    fail<UsageError>("inputs: 'labels' must have shape [{}], got [{}]", batch,
                     fmt::join(in.get("labels").sizes(), ", "));
  }
  if (labels.is_floating_point()) {
    out.input.labels = labels.to(at::kFloat);
  } else {
    out.input.labels = labels.to(at::kLong);
    if (config.labels > 1) {
      check_range("labels", out.input.labels, config.labels);
    }
  }
}

void read_encoder(const Inputs& in, const ModelConfig& config, HfBatch& out) {
  const at::Tensor ids = in.whole("input_ids", {}, true);
  const at::Tensor types = in.whole("token_type_ids", ids.sizes());
  if (types.defined()) {
    check_range("token_type_ids", types, config.type_vocab);
    out.input.encoder.types = types.flatten().index_select(0, out.encoder.rows);
  }
  read_labels(in, config, out);
}

// Labels of the input's own shape are those of a language model: the token in
// cell i is what the row of cell i - 1 is to give.
void read_gpt2(const Inputs& in, const ModelConfig& config, HfBatch& out) {
  const std::int64_t batch = out.encoder.batch, length = out.encoder.length;
  const bool text = length > 1 && in.has("labels") &&
                    in.get("labels").dim() == 2 &&
                    in.get("labels").size(1) == length;
  if (!text) return read_labels(in, config, out);
  const at::Tensor labels = in.whole("labels", {batch, length});
  check_range("labels", labels, config.vocab_size, true);
  const at::Tensor next =
      at::cat({labels.narrow(1, 1, length - 1),
               at::full({batch, 1}, kIgnored, labels.options())},
              1)
          .flatten();
  out.input.labels = next.index_select(0, out.encoder.rows);
  const at::Tensor unread =
      next.index_fill(0, out.encoder.rows, kIgnored).ne(kIgnored).nonzero();
  if (unread.size(0) > 0) {
    fail<UsageError>(
        "inputs: 'labels' has a target at element {}, and 'attention_mask' "
        "hides the token before it; put -100 there",
        unread[0].item<std::int64_t>() + 1);
  }
}

void read_encoder_decoder(const Inputs& in, const ModelConfig& config,
                          HfBatch& out) {
  const std::int64_t batch = out.encoder.batch;
  const at::Tensor labels = in.whole("labels");
  if (labels.defined()) {
    check_range("labels", labels, config.vocab_size, true);
  }
  at::Tensor ids = in.whole("decoder_input_ids");
  if (!ids.defined()) {
    if (!labels.defined()) {
      fail<UsageError>("inputs: 'labels' or 'decoder_input_ids' is missing");
    }
    const at::Tensor start = at::full(
        {labels.size(0), 1}, config.decoder_start_id, labels.options());
    ids = at::cat({start, labels.narrow(1, 0, labels.size(1) - 1)}, 1);
    ids = ids.masked_fill(ids.eq(kIgnored), config.pad_id);
  }
  check_range("decoder_input_ids", ids, config.vocab_size);
  if (ids.size(0) != batch) {
    fail<UsageError>("inputs: {} rows to decode, {} to encode", ids.size(0),
                     batch);
  }
  const at::Tensor mask = in.whole("decoder_attention_mask", ids.sizes());
  out.input.decoder = pack("decoder_attention_mask", ids, mask, out.decoder);
  if (!labels.defined()) return;
  if (labels.sizes() != ids.sizes()) {
    fail<UsageError>("inputs: 'labels' must have shape [{}], got [{}]",
                     fmt::join(ids.sizes(), ", "),
                     fmt::join(labels.sizes(), ", "));
  }
  if (mask.defined() &&
      labels.ne(kIgnored).logical_and(mask.eq(0)).any().item<bool>()) {
    fail<UsageError>(
        "inputs: 'labels' has a target where "
        "'decoder_attention_mask' is 0; put -100 there");
  }
  out.input.labels = labels.flatten().index_select(0, out.decoder.rows);
}

}  // namespace

at::Tensor HfCells::pad(const at::Tensor& x) const {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape[0] = batch * length;
  at::Tensor cells = at::zeros(shape, x.options()).index_copy(0, rows, x);
  shape[0] = length;
  shape.insert(shape.begin(), batch);
  return cells.view(shape);
}

HfBatch read_hf_inputs(const NamedTensors& tensors, const ModelConfig& config) {
  const bool decodes = config.decoder_layers > 0;
  std::vector<std::string> known = {"input_ids", "attention_mask", "labels"};
  if (decodes) {
    known.insert(known.end(), {"decoder_input_ids", "decoder_attention_mask"});
  } else if (!config.decoder_only) {
    known.push_back("token_type_ids");
  }
  const Inputs in(tensors, std::move(known));
  const at::Tensor ids = in.whole("input_ids", {}, true);
  check_range("input_ids", ids, config.vocab_size);

  HfBatch out;
  out.input.encoder =
      pack("attention_mask", ids, in.whole("attention_mask", ids.sizes()),
           out.encoder, config.padding_has_position ? -1 : config.pad_id);
  const std::int64_t batch = out.encoder.batch;
  out.input.tasks.assign(static_cast<std::size_t>(batch), 0);
  out.input.sample_ids.resize(static_cast<std::size_t>(batch));
  std::iota(out.input.sample_ids.begin(), out.input.sample_ids.end(),
            std::uint64_t{0});
  if (decodes) {
    read_encoder_decoder(in, config, out);
  } else if (config.decoder_only) {
    read_gpt2(in, config, out);
  } else {
    read_encoder(in, config, out);
  }
  return out;
}

}  // namespace thinwire
