// A decoder that remembers against one that reads everything again.
#include "models/kv_cache.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <optional>

#include "base/error.h"
#include "models/side_network.h"
#include "models/test_models.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

using Tokens = std::vector<std::vector<std::int64_t>>;

using Samples = std::vector<std::uint64_t>;

TokenStream stream_of(const Tokens& sequences, const Samples& samples) {
  std::vector<std::int64_t> lengths, all;
  for (const auto& s : sequences) {
    lengths.push_back(static_cast<std::int64_t>(s.size()));
    all.insert(all.end(), s.begin(), s.end());
  }
  TokenStream out;
  out.layout = make_layout(lengths, samples);
  out.tokens = at::tensor(all, at::kLong);
  return out;
}

BackboneInput input_of(const Tokens& encoder, const Samples& inputs,
                       const Tokens& decoder, const Samples& streams) {
  BackboneInput in;
  in.encoder = stream_of(encoder, inputs);
  in.decoder = stream_of(decoder, streams);
  return in;
}

// Row of the last token of each sequence, after the final norm.
at::Tensor last_rows(const BackboneOutput& out, const Layout& tokens) {
  std::vector<std::int64_t> rows;
  for (std::int64_t b = 1; b <= tokens.batch(); ++b) {
    rows.push_back(tokens.offsets[static_cast<std::size_t>(b)] - 1);
  }
  return out.token_states().index_select(
      0, beside(at::tensor(rows, at::kLong), out.hidden));
}

const Tokens kInputs{{5, 6, 7, 1}, {9, 1}, {20, 21, 22, 23, 24, 1}};
const Samples kSamples{0, 1, 2};

// One pass of the decoder over its stream; where that is all the model has, the
// inputs have no say.
at::Tensor last_rows_of(Backbone& backbone, BackboneInput in,
                        const ForwardContext& ctx,
                        const BackboneOutput* memory) {
  if (backbone.config().decoder_only) in.encoder = in.decoder;
  return last_rows(memory == nullptr ? backbone.forward(in, ctx)
                                     : backbone.decode(*memory, in, ctx),
                   in.decoder.layout);
}

// Three inputs whose streams grow, multiply, change places and leave.
class Growing {
 public:
  explicit Growing(Backbone& backbone, Tokens prompts)
      : backbone_(backbone), cache_(3), whole_(std::move(prompts)) {
    if (!backbone_.config().decoder_only) {
      memory_ =
          backbone_.encode(input_of(kInputs, kSamples, whole_, kSamples), {});
    }
    compare(whole_);
  }

  // Stream i goes on from from[i] by more[i].
  void go_on(const std::vector<std::int64_t>& from, const Tokens& more) {
    Tokens whole;
    Samples input_of;
    for (std::size_t i = 0; i < from.size(); ++i) {
      const auto old = static_cast<std::size_t>(from[i]);
      whole.push_back(whole_[old]);
      whole.back().insert(whole.back().end(), more[i].begin(), more[i].end());
      input_of.push_back(input_of_[old]);
    }
    whole_ = whole;
    input_of_ = input_of;
    cache_.select(from);
    EXPECT_EQ(cache_.streams(), static_cast<std::int64_t>(from.size()));
    compare(more);
  }

 private:
  void compare(const Tokens& more) {
    ForwardContext ctx;
    ctx.cache = &cache_;
    const at::Tensor got =
        last_rows_of(backbone_, input_of(kInputs, kSamples, more, input_of_),
                     ctx, memory_ ? &*memory_ : nullptr);
    for (std::size_t i = 0; i < more.size(); ++i) {
      const BackboneInput alone = input_of(
          {kInputs[input_of_[i]]}, {input_of_[i]}, {whole_[i]}, {input_of_[i]});
      const at::Tensor want = last_rows_of(backbone_, alone, {}, nullptr);
      const auto row = static_cast<std::int64_t>(i);
      EXPECT_TRUE(golden_close("stream " + std::to_string(i) + " at " +
                                   std::to_string(whole_[i].size()),
                               got.narrow(0, row, 1), want));
    }
  }

  Backbone& backbone_;
  KvCache cache_;
  std::optional<BackboneOutput> memory_;
  Tokens whole_;
  Samples input_of_ = kSamples;
};

void grow(Backbone& backbone, const Tokens& prompts) {
  const at::NoGradGuard no_grad;
  Growing streams(backbone, prompts);
  streams.go_on({0, 1, 2}, {{4}, {8}, {12}});
  streams.go_on({0, 1, 2}, {{9}, {3}, {31}});
  streams.go_on({0, 0, 1, 2, 2, 2}, {{5}, {6}, {7}, {8}, {9}, {10}});
  streams.go_on({1, 0, 2, 5, 3, 3}, {{15}, {16}, {17}, {18}, {19}, {20}});
  streams.go_on({1, 3, 4, 5}, {{2}, {2}, {3}, {2}});  // input 1 has ended
  streams.go_on({0, 1, 2, 3}, {{11}, {12}, {13}, {14}});
  streams.go_on({2, 3}, {{30}, {29}});  // input 0 as well
  // Far enough for a relative bias to leave its exact buckets; the positions of
  // others end sooner.
  const std::int64_t steps = backbone.config().max_positions > 0 ? 3 : 12;
  for (std::int64_t i = 0; i < steps; ++i) {
    streams.go_on({1, 0}, {{2 + i}, {30 - i}});
  }
}

const Tokens kStarts{{0}, {0}, {0}};
const Tokens kRagged{{0, 4, 5}, {0}, {0, 17}};

class Cached : public testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backbone> backbone_ = load_backbone(golden_path(GetParam()));
};
INSTANTIATE_TEST_SUITE_P(Golden, Cached,
                         testing::Values("bart_bare", "bart_text", "t5_tied",
                                         "t5_gated", "gpt2_lm"));

TEST_P(Cached, StreamsFromOneStartToken) { grow(*backbone_, kStarts); }

TEST_P(Cached, PromptsOfUnequalLength) { grow(*backbone_, kRagged); }

TEST_P(Cached, PlainTwins) {
  const UseReferenceOps reference;
  grow(*backbone_, kStarts);
  grow(*backbone_, kRagged);
}

TEST_P(Cached, SeveralNewTokensAtOnce) {
  const at::NoGradGuard no_grad;
  Growing streams(*backbone_, kRagged);
  streams.go_on({0, 1, 2}, {{4, 5}, {6, 7}, {8, 9}});
  streams.go_on({0, 0, 1, 2}, {{4}, {5, 6, 7}, {8, 9}, {10}});
}

class ExtraKeys : public AttentionAttachment {
 public:
  ExtraKeys(std::int64_t n, std::int64_t width, bool per_sequence)
      : k_(at::randn({n, width})),
        v_(at::randn({n, width})),
        per_sequence_(per_sequence) {}
  // A sequence's own are scaled by its sample id.
  std::pair<at::Tensor, at::Tensor> extra_keys_values(
      const ForwardContext& ctx) override {
    if (!per_sequence_) return {k_, v_};
    std::vector<at::Tensor> keys, values;
    for (std::int64_t b = 0; b < ctx.layout->batch(); ++b) {
      const auto first = ctx.layout->offsets[static_cast<std::size_t>(b)];
      const auto sample = ctx.layout->samples[first].item<double>();
      keys.push_back(k_.mul(1 + sample));
      values.push_back(v_.sub(sample));
    }
    return {at::stack(keys), at::stack(values)};
  }

 private:
  at::Tensor k_, v_;
  bool per_sequence_;
};

class Vectors : public EmbeddingAttachment {
 public:
  Vectors(std::int64_t n, std::int64_t d, std::int64_t at)
      : vectors_(at::randn({n, d})), at_(at) {}
  std::int64_t rows() const override { return vectors_.size(0); }
  std::int64_t insert_at() const override { return at_; }
  at::Tensor vectors(const at::Tensor&, const ForwardContext&) override {
    return vectors_;
  }

 private:
  at::Tensor vectors_;
  std::int64_t at_;
};

TEST_P(Cached, PrefixesAndVectorsOfMethods) {
  for (std::size_t i = 0; i < backbone_->sites().size(); ++i) {
    const Site site = backbone_->sites()[i];
    const int number = static_cast<int>(i);
    if (site.kind == SiteKind::kAttention) {
      backbone_->attach(number,
                        std::make_shared<ExtraKeys>(3, site.d_out, false));
      backbone_->attach(number,
                        std::make_shared<ExtraKeys>(2, site.d_out, true));
    } else if (site.kind == SiteKind::kEmbedding) {
      backbone_->attach(number, std::make_shared<Vectors>(4, site.d_out, 0));
      backbone_->attach(number, std::make_shared<Vectors>(2, site.d_out, 1));
    }
  }
  grow(*backbone_, kStarts);
  grow(*backbone_, kRagged);
}

// Another model of the same kind beside each stack, with a cache of its own; it
// reads the first layer.
class Beside : public SideNetwork {
 public:
  explicit Beside(const std::string& name)
      : own_(load_backbone(golden_path(name))) {}
  bool stills_stream() const override { return true; }
  bool reads(Stack, int layer) const override { return layer == 0; }
  Output run(Stack stack, StackStates states, const at::Tensor& memory,
             const ForwardContext& outer) override {
    ForwardContext ctx = outer;
    Layout rows = *outer.layout;
    if (ctx.cache != nullptr) {
      ctx.cache = &ctx.cache->side();
      ctx.cache->begin(rows);
      ctx.layout = &rows;
    }
    const at::Tensor h = own_->run_stack(
        stack, states.embeddings.sub(states.outputs.at(0)), memory, ctx);
    return {h, h};
  }

 private:
  std::unique_ptr<Backbone> own_;
};

TEST_P(Cached, ANetworkBeside) {
  backbone_->attach(std::make_shared<Beside>(GetParam()));
  EXPECT_THROW(backbone_->attach(std::make_shared<Beside>(GetParam())),
               UsageError);
  grow(*backbone_, kStarts);
  grow(*backbone_, kRagged);
}

TEST(KvCache, AStreamThatIsNotThereOrOutOfOrder) {
  KvCache cache(2);
  EXPECT_THROW(cache.select({2}), InternalError);
  EXPECT_THROW(cache.select({1, 0}), InternalError);
}

}  // namespace
}  // namespace thinwire
