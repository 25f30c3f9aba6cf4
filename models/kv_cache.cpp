#include "models/kv_cache.h"

#include <algorithm>
#include <numeric>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>

#include "base/error.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

at::Tensor indices(const std::vector<std::int64_t>& rows) {
  return at::tensor(rows, at::kLong);
}

std::vector<std::int64_t> lengths_of(const Layout& layout) {
  std::vector<std::int64_t> out;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    out.push_back(layout.offsets[at(b + 1)] - layout.offsets[at(b)]);
  }
  return out;
}

std::vector<std::uint64_t> samples_of(const Layout& layout) {
  std::vector<std::uint64_t> out;
  const auto* samples = layout.samples.const_data_ptr<std::int64_t>();
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    out.push_back(static_cast<std::uint64_t>(samples[layout.offsets[at(b)]]));
  }
  return out;
}

// The rows of the sequences `which` of x [T, d], end to end.
at::Tensor take(const at::Tensor& x, const Layout& layout,
                const std::vector<std::int64_t>& which) {
  if (layout.uniform) {
    return x.view({layout.batch(), layout.max_length, x.size(1)})
        .index_select(0, beside(indices(which), x))
        .view({-1, x.size(1)});
  }
  std::vector<std::int64_t> rows;
  for (const std::int64_t b : which) {
    for (auto t = layout.offsets[at(b)]; t < layout.offsets[at(b + 1)]; ++t) {
      rows.push_back(t);
    }
  }
  return x.index_select(0, beside(indices(rows), x));
}

Layout take(const Layout& layout, const std::vector<std::int64_t>& which) {
  const auto lengths = lengths_of(layout);
  const auto samples = samples_of(layout);
  const auto* from = layout.positions.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> new_lengths, positions;
  std::vector<std::uint64_t> new_samples;
  for (const std::int64_t b : which) {
    new_lengths.push_back(lengths[at(b)]);
    new_samples.push_back(samples[at(b)]);
    positions.insert(positions.end(), from + layout.offsets[at(b)],
                     from + layout.offsets[at(b + 1)]);
  }
  return make_layout(new_lengths, new_samples, positions);
}

bool is_identity(const std::vector<std::int64_t>& from, std::int64_t n) {
  if (static_cast<std::int64_t>(from.size()) != n) return false;
  for (std::int64_t i = 0; i < n; ++i) {
    if (from[at(i)] != i) return false;
  }
  return true;
}

}  // namespace

KvCache::KvCache(std::int64_t inputs) : input_of_(at(inputs)) {
  std::iota(input_of_.begin(), input_of_.end(), std::int64_t{0});
}

KvCache& KvCache::side() {
  if (side_ == nullptr) side_ = std::make_unique<KvCache>(streams());
  return *side_;
}

void KvCache::select(const std::vector<std::int64_t>& from) {
  if (is_identity(from, streams())) return;
  if (side_ != nullptr) side_->select(from);
  std::vector<std::int64_t> inputs, input_of;
  for (const std::int64_t stream : from) {
    THINWIRE_ASSERT(stream >= 0 && stream < streams(), "stream {} of {}",
                    stream, streams());
    const std::int64_t input = input_of_[at(stream)];
    THINWIRE_ASSERT(inputs.empty() || inputs.back() <= input,
                    "input {} after {}", input, inputs.back());
    if (inputs.empty() || inputs.back() != input) inputs.push_back(input);
    input_of.push_back(static_cast<std::int64_t>(inputs.size()) - 1);
  }
  const bool all_inputs = is_identity(inputs, input_of_.back() + 1);
  for (auto& [site, entry] : entries_) {
    if (entry.of_inputs && all_inputs) continue;
    const Layout& layout = entry.of_inputs ? inputs_ : keys_;
    const auto& which = entry.of_inputs ? inputs : from;
    entry.k = take(entry.k, layout, which);
    entry.v = take(entry.v, layout, which);
  }
  for (auto& [site, extra] : extras_) {
    if (!extra.first.defined() || extra.first.dim() == 2) continue;
    const at::Tensor which = beside(indices(from), extra.first);
    extra = {extra.first.index_select(0, which),
             extra.second.index_select(0, which)};
  }
  if (!empty()) keys_ = take(keys_, from);
  if (!inputs_.offsets.empty() && !all_inputs) inputs_ = take(inputs_, inputs);
  input_of_ = std::move(input_of);
}

void KvCache::begin(Layout& rows) {
  THINWIRE_ASSERT(rows.batch() == streams(), "{} sequences, {} streams",
                  rows.batch(), streams());
  if (empty()) {
    keys_ = rows;
    group_streams(rows);
    return;
  }
  const auto before = lengths_of(keys_), lengths = lengths_of(rows);
  const auto samples = samples_of(rows);
  const auto* old = keys_.positions.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> sums, all, fresh, order;
  for (std::int64_t s = 0; s < streams(); ++s) {
    const std::int64_t begin = keys_.offsets[at(s)],
                       end = keys_.offsets[at(s + 1)];
    all.insert(all.end(), old + begin, old + end);
    for (std::int64_t t = begin; t < end; ++t) order.push_back(t);
    for (std::int64_t i = 0; i < lengths[at(s)]; ++i) {
      fresh.push_back(old[end - 1] + 1 + i);
      all.push_back(fresh.back());
      order.push_back(keys_.rows() + rows.offsets[at(s)] + i);
    }
    sums.push_back(before[at(s)] + lengths[at(s)]);
  }
  const bool uniform = keys_.uniform && rows.uniform;
  added_ = uniform ? rows.max_length : 0;
  order_ = uniform ? at::Tensor() : indices(order);
  rows = make_layout(lengths, samples, fresh);
  keys_ = make_layout(sums, samples, all);
  group_streams(rows);
}

void KvCache::group_streams(const Layout& rows) {
  first_stream_.clear();
  grouped_ = {};
  if (input_of_.back() + 1 == streams()) return;
  const auto lengths = lengths_of(rows);
  const auto samples = samples_of(rows);
  const auto* positions = rows.positions.const_data_ptr<std::int64_t>();
  std::vector<std::int64_t> sums;
  std::vector<std::uint64_t> ids;
  for (std::int64_t s = 0; s < streams(); ++s) {
    if (s == 0 || input_of_[at(s)] != input_of_[at(s - 1)]) {
      first_stream_.push_back(s);
      sums.push_back(0);
      ids.push_back(samples[at(s)]);
    }
    sums.back() += lengths[at(s)];
  }
  grouped_ = make_layout(sums, ids, {positions, positions + rows.rows()});
}

void KvCache::attend_self(int site, AttentionInputs& in) {
  Entry& entry = entries_[site];
  if (entry.k.defined()) {
    const auto join = [this](const at::Tensor& old, const at::Tensor& more) {
      if (order_.defined()) {
        return at::cat({old, more}, 0).index_select(0, beside(order_, old));
      }
      const std::int64_t width = old.size(1);
      return at::cat({old.view({streams(), -1, width}),
                      more.view({streams(), added_, width})},
                     1)
          .view({-1, width});
    };
    entry.k = join(entry.k, in.k);
    entry.v = join(entry.v, in.v);
  } else {
    entry.k = in.k.contiguous();
    entry.v = in.v.contiguous();
  }
  in.k = entry.k;
  in.v = entry.v;
  in.keys = &keys_;
}

void KvCache::attend_inputs(int site, AttentionInputs& in,
                            const std::function<void()>& project) {
  Entry& entry = entries_[site];
  if (!entry.k.defined()) {
    THINWIRE_ASSERT(in.keys->batch() == input_of_.back() + 1,
                    "{} inputs, {} of the streams", in.keys->batch(),
                    input_of_.back() + 1);
    if (inputs_.offsets.empty()) inputs_ = *in.keys;
    project();
    entry = {in.k.contiguous(), in.v.contiguous(), true};
  }
  in.k = entry.k;
  in.v = entry.v;
  in.keys = &inputs_;
  if (first_stream_.empty()) return;
  in.queries = &grouped_;
  if (in.extra_k.defined() && in.extra_k.dim() == 3) {
    const at::Tensor which = beside(indices(first_stream_), in.extra_k);
    in.extra_k = in.extra_k.index_select(0, which);
    in.extra_v = in.extra_v.index_select(0, which);
  }
}

KvCache::KeysValues KvCache::extra(int site,
                                   const std::function<KeysValues()>& make) {
  const auto found = extras_.find(site);
  if (found != extras_.end()) return found->second;
  return extras_.emplace(site, make()).first->second;
}

}  // namespace thinwire
