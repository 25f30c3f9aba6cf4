#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/ladder.h"

#include <ATen/ops/lerp.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/random.h"
#include "models/kv_cache.h"
#include "ops/linear.h"

namespace thinwire {
namespace {

// Before a side layer: mu s + (1 - mu) (W h + b), mu = sigmoid(gate / T), s the
// side's stream [T, d'], h what the backbone's layer gave [T, d].
class Rung : public TapAttachment {
 public:
  Rung(Affine down, at::Tensor gate, double temperature)
      : down_(std::move(down)),
        gate_(std::move(gate)),
        temperature_(temperature) {}

  void show(at::Tensor h) { h_ = std::move(h); }  // of the pass that comes

  at::Tensor layer_input(const at::Tensor& s, const ForwardContext&) override {
    THINWIRE_ASSERT(h_.defined(), "a rung without a backbone's layer");
    return at::lerp(down_(std::exchange(h_, {})), s,
                    gate_.div(temperature_).sigmoid());
  }

 private:
  Affine down_;
  at::Tensor gate_;
  double temperature_;
  at::Tensor h_;
};

class Ladder : public SideNetwork {
 public:
  Ladder(const Backbone& backbone, std::unique_ptr<Backbone> side,
         SideLayers layers, LadderParts parts)
      : backbone_(backbone),
        side_(std::move(side)),
        layers_(std::move(layers)),
        parts_(std::move(parts)) {
    put_rungs(Stack::kEncoder, parts_.encoder, encoder_);
    put_rungs(Stack::kDecoder, parts_.decoder, decoder_);
  }

  bool stills_stream() const override { return !parts_.frozen_dropout; }

  bool reads(Stack stack, int layer) const override {
    return std::ranges::binary_search(layers_.of(stack), layer);
  }

  Output run(Stack stack, StackStates states, const at::Tensor& memory,
             const ForwardContext& outer) override {
    const bool encoder = stack == Stack::kEncoder;
    const auto& rungs = encoder ? encoder_ : decoder_;
    THINWIRE_ASSERT(states.outputs.size() == rungs.size(),
                    "{} layers, {} rungs", states.outputs.size(), rungs.size());
    side_->set_dropout(backbone_.config());
    ForwardContext ctx = outer;
    ctx.seed ^= name_seed("lst");  // its dropout is not the backbone's
    Layout rows;
    if (ctx.cache != nullptr) {
      rows = *ctx.layout;
      ctx.layout = &rows;
      ctx.cache = &ctx.cache->side();
      ctx.cache->begin(rows);
    }
    for (std::size_t i = 0; i < rungs.size(); ++i) {
      rungs[i]->show(std::move(states.outputs[i]));
    }
    at::Tensor x = std::move(states.embeddings);
    if (ctx.training) {
      x = dropout(x, backbone_.config().dropout,
                  ctx.dropout_key(encoder ? kEncoderDropout : kDecoderDropout),
                  *ctx.layout);
    }
    const at::Tensor s = (encoder ? parts_.encoder : parts_.decoder).first(x);
    x.reset();
    at::Tensor own = side_->run_stack(stack, s, memory, ctx);
    if (encoder) return {{}, std::move(own)};
    return {parts_.up(own), {}};
  }

 private:
  inline static const std::uint32_t kEncoderDropout =
      dropout_site("lst.encoder.embeddings.dropout");
  inline static const std::uint32_t kDecoderDropout =
      dropout_site("lst.decoder.embeddings.dropout");

  void put_rungs(Stack stack, const LadderStack& parts,
                 std::vector<std::shared_ptr<Rung>>& rungs) {
    for (std::size_t i = 0; i < parts.down.size(); ++i) {
      rungs.push_back(std::make_shared<Rung>(parts.down[i], parts.gate[i],
                                             parts_.temperature));
      const std::string name = layer_name(*side_, stack, static_cast<int>(i));
      side_->attach(side_->find_site(SiteKind::kTap, name), rungs.back());
    }
  }

  const Backbone& backbone_;
  std::unique_ptr<Backbone> side_;
  SideLayers layers_;
  LadderParts parts_;
  std::vector<std::shared_ptr<Rung>> encoder_, decoder_;
};

}  // namespace

at::Tensor Affine::operator()(const at::Tensor& x) const {
  return linear(x, weight, bias);
}

std::shared_ptr<SideNetwork> make_ladder(const Backbone& backbone,
                                         std::unique_ptr<Backbone> side,
                                         SideLayers layers, LadderParts parts) {
  return std::make_shared<Ladder>(backbone, std::move(side), std::move(layers),
                                  std::move(parts));
}

}  // namespace thinwire
