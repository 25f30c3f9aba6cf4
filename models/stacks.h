// How a model's passes go through its one or two stacks. Internal to models/.
#pragma once

#include "models/transformer.h"

namespace thinwire {

// One stack over BackboneInput::encoder, which its architecture makes an
// encoder or a decoder.
class OneStack : public Transformer {
 public:
  OneStack(const ModelConfig& config, Stack stack)
      : Transformer(config), stack_(stack) {}

  BackboneOutput forward(const BackboneInput& in,
                         const ForwardContext& ctx) final;
  BackboneOutput encode(const BackboneInput& in,
                        const ForwardContext& ctx) final;
  BackboneOutput decode(const BackboneOutput& memory, const BackboneInput& in,
                        const ForwardContext& ctx) final;

 protected:
  // Where site NAME of this stack stands.
  Site at(std::string name, Role role, int layer) const {
    return place(stack_, std::move(name), role, layer);
  }

 private:
  const Stack stack_;
};

// An encoder, and a decoder that attends to what it gives.
class EncoderDecoder : public Transformer {
 public:
  using Transformer::Transformer;

  BackboneOutput forward(const BackboneInput& in,
                         const ForwardContext& ctx) final;
  BackboneOutput encode(const BackboneInput& in,
                        const ForwardContext& ctx) final;
  BackboneOutput decode(const BackboneOutput& memory, const BackboneInput& in,
                        const ForwardContext& ctx) final;
  at::Tensor pooled(const BackboneOutput& out, const ForwardContext& ctx) final;
};

}  // namespace thinwire
