#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/side_features.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <bit>
#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "models/side_network.h"

namespace thinwire {
namespace {

std::vector<const TokenStream*> streams_of(const BackboneInput& in) {
  std::vector<const TokenStream*> out{&in.encoder};
  if (in.decoder.tokens.defined()) out.push_back(&in.decoder);
  return out;
}

// Stands where a side network stands, and keeps what that would read.
class Recorder : public SideNetwork {
 public:
  explicit Recorder(std::shared_ptr<SideNetwork> network)
      : network_(std::move(network)) {}

  bool stills_stream() const override { return true; }
  bool reads(Stack stack, int layer) const override {
    return network_->reads(stack, layer);
  }
  Output run(Stack stack, StackStates states, const at::Tensor&,
             const ForwardContext&) override {
    const bool first = seen_.emplace(stack, std::move(states)).second;
    THINWIRE_ASSERT(first, "a pass runs stack {} twice",
                    static_cast<int>(stack));
    return {};
  }

  const StackStates& of(Stack stack) const {
    const auto found = seen_.find(stack);
    THINWIRE_ASSERT(found != seen_.end(), "the pass did not run stack {}",
                    static_cast<int>(stack));
    return found->second;
  }

 private:
  std::shared_ptr<SideNetwork> network_;
  std::map<Stack, StackStates> seen_;
};

// Embeddings, then layers.
std::vector<at::Tensor> tensors_of(const StackStates& states) {
  std::vector<at::Tensor> out{states.embeddings};
  out.insert(out.end(), states.outputs.begin(), states.outputs.end());
  return out;
}

// What the backbone reads of a sample: its tokens in each sequence, and
// segments where they are not all the first.
std::uint64_t source_of(const std::vector<const TokenStream*>& streams,
                        const std::vector<SampleRows>& rows) {
  Hasher h;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const TokenStream& s = *streams[i];
    const auto number = [&](const at::Tensor& t) {
      const auto* p = t.const_data_ptr<std::int64_t>();
      for (std::int64_t r = rows[i].begin; r < rows[i].end; ++r) h.number(p[r]);
    };
    h.number(rows[i].count());
    number(s.tokens);
    number(s.layout.positions);  // they begin anew in each sequence
    if (!s.types.defined()) continue;
    const at::Tensor own = s.types.narrow(0, rows[i].begin, rows[i].count());
    if (own.any().item<bool>()) number(s.types);
  }
  return h.digest().low;
}

}  // namespace

std::string SideTaps::text() const {
  std::string out;
  for (const Stream& s : streams) {
    out += s.stack == Stack::kEncoder ? "encoder" : "decoder";
    for (const int layer : s.layers) out += fmt::format(" {}", layer);
    out += ", ";
  }
  return out + fmt::format("{} wide", width);
}

SideTaps side_taps(const Backbone& backbone) {
  THINWIRE_ASSERT(backbone.side() != nullptr, "no network beside the backbone");
  const ModelConfig& c = backbone.config();
  SideTaps out;
  out.width = c.d_model;
  const auto add = [&](Stack stack, std::int64_t depth) {
    SideTaps::Stream& s = out.streams.emplace_back();
    s.stack = stack;
    for (int layer = 0; layer < depth; ++layer) {
      if (backbone.side()->reads(stack, layer)) s.layers.push_back(layer);
    }
  };
  add(c.decoder_only ? Stack::kDecoder : Stack::kEncoder, c.layers);
  if (c.decoder_layers > 0) add(Stack::kDecoder, c.decoder_layers);
  return out;
}

std::string why_no_features(const Backbone& backbone) {
  if (backbone.side() == nullptr) {
    return "no method runs a network beside the backbone, so nothing would "
           "read them";
  }
  if (!backbone.side()->stills_stream()) {
    return "the backbone drops out in training, so what its layers give "
           "differs from epoch to epoch";
  }
  const std::string moved = backbone.moved_by();
  return moved.empty()
             ? ""
             : fmt::format("{} changes what the backbone's layers give", moved);
}

std::vector<std::vector<SampleRows>> sample_rows(const BackboneInput& in) {
  std::vector<std::vector<SampleRows>> out(in.sample_ids.size());
  for (const TokenStream* stream : streams_of(in)) {
    const auto& ends = stream->layout.offsets;
    const bool several = stream == &in.decoder && !in.choices.empty();
    std::size_t sequence = 0;
    for (std::size_t b = 0; b < out.size(); ++b) {
      const std::size_t n =
          several ? static_cast<std::size_t>(in.choices[b]) : 1;
      out[b].push_back({ends[sequence], ends[sequence + n]});
      sequence += n;
    }
    THINWIRE_ASSERT(ends[sequence] == stream->layout.rows(),
                    "{} sequences of {} samples", stream->layout.batch(),
                    out.size());
  }
  return out;
}

std::vector<Features> make_features(Backbone& backbone, const BackboneInput& in,
                                    const std::function<void()>& pass) {
  const at::NoGradGuard no_grad;
  const SideTaps taps = side_taps(backbone);
  const auto recorder = std::make_shared<Recorder>(backbone.side());
  {
    struct Swapped {
      Backbone& backbone;
      std::shared_ptr<SideNetwork> network;
      ~Swapped() { backbone.swap_side(std::move(network)); }
    };
    const Swapped swapped{backbone, backbone.swap_side(recorder)};
    pass();
  }
  const auto streams = streams_of(in);
  THINWIRE_ASSERT(streams.size() == taps.streams.size(), "{} streams of {}",
                  streams.size(), taps.streams.size());
  const auto rows = sample_rows(in);
  std::vector<Features> out(rows.size());
  for (std::size_t b = 0; b < out.size(); ++b) {
    out[b].source = source_of(streams, rows[b]);
  }
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const auto tensors = tensors_of(recorder->of(taps.streams[i].stack));
    THINWIRE_ASSERT(std::ssize(tensors) == taps.streams[i].tensors(),
                    "{} tensors of {}", tensors.size(),
                    taps.streams[i].tensors());
    for (const at::Tensor& t : tensors) {
      THINWIRE_ASSERT(
          t.size(0) == streams[i]->layout.rows() && t.size(1) == taps.width,
          "a tensor [{}, {}] of {} rows", t.size(0), t.size(1),
          streams[i]->layout.rows());
      const at::Tensor narrow = t.to(at::kBFloat16).cpu().contiguous();
      const auto* p =
          static_cast<const std::uint16_t*>(narrow.const_data_ptr());
      for (std::size_t b = 0; b < out.size(); ++b) {
        out[b].values.insert(out[b].values.end(),
                             p + rows[b][i].begin * taps.width,
                             p + rows[b][i].end * taps.width);
      }
    }
  }
  return out;
}

void give_features(const Backbone& backbone,
                   std::span<const Features* const> features,
                   BackboneInput& in) {
  const SideTaps taps = side_taps(backbone);
  const auto streams = streams_of(in);
  const auto rows = sample_rows(in);
  THINWIRE_ASSERT(
      features.size() == rows.size() && streams.size() == taps.streams.size(),
      "features of {} samples for {}", features.size(), rows.size());
  for (std::size_t b = 0; b < rows.size(); ++b) {
    std::int64_t needed = 0;
    for (std::size_t i = 0; i < streams.size(); ++i) {
      needed += taps.streams[i].tensors() * rows[b][i].count() * taps.width;
    }
    const Features& f = *features[b];
    if (f.source == source_of(streams, rows[b]) &&
        std::ssize(f.values) == needed) {
      continue;
    }
    fail<UsageError>(
        "sample {}: its features are {} numbers made from other tokens or for "
        "other layers, where {} are needed; remove the cache to have it made "
        "again",
        in.sample_ids[b], f.values.size(), needed);
  }
  std::vector<std::int64_t> at(rows.size(), 0);  // read of each sample
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const std::int64_t all = streams[i]->layout.rows();
    const auto next = [&] {
      const at::Tensor t = at::empty({all, taps.width}, at::kFloat);
      auto* to = t.mutable_data_ptr<float>();
      at::parallel_for(
          0, std::ssize(rows), 1, [&](std::int64_t begin, std::int64_t end) {
            for (auto b = static_cast<std::size_t>(begin);
                 b < static_cast<std::size_t>(end); ++b) {
              const std::int64_t n = rows[b][i].count() * taps.width;
              const std::uint16_t* from = features[b]->values.data() + at[b];
              float* out = to + rows[b][i].begin * taps.width;
              for (std::int64_t k = 0; k < n; ++k) {
                out[k] = std::bit_cast<float>(
                    static_cast<std::uint32_t>(from[k]) << 16);
              }
              at[b] += n;
            }
          });
      return t.to(backbone.parameters().device());
    };
    auto states = std::make_shared<StackStates>();
    states->embeddings = next();
    for (std::size_t k = 0; k < taps.streams[i].layers.size(); ++k) {
      states->outputs.push_back(next());
    }
    (i == 0 ? in.encoder : in.decoder).states = std::move(states);
  }
}

}  // namespace thinwire
