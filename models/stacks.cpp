#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/stacks.h"

#include "base/error.h"

namespace thinwire {

BackboneOutput OneStack::forward(const BackboneInput& in,
                                 const ForwardContext& ctx) {
  return pass(stack_, in.encoder, nullptr, ctx);
}

BackboneOutput OneStack::encode(const BackboneInput&, const ForwardContext&) {
  fail<InternalError>("{} has no encoder apart from forward()",
                      config_.architecture);
}

BackboneOutput OneStack::decode(const BackboneOutput&, const BackboneInput&,
                                const ForwardContext&) {
  fail<InternalError>("{} has no decoder apart from forward()",
                      config_.architecture);
}

BackboneOutput EncoderDecoder::forward(const BackboneInput& in,
                                       const ForwardContext& ctx) {
  return decode(encode(in, ctx), in, ctx);
}

BackboneOutput EncoderDecoder::encode(const BackboneInput& in,
                                      const ForwardContext& ctx) {
  ForwardContext now = ctx;
  now.cache = nullptr;  // the decoder's
  return pass(Stack::kEncoder, in.encoder, nullptr, now);
}

BackboneOutput EncoderDecoder::decode(const BackboneOutput& memory,
                                      const BackboneInput& in,
                                      const ForwardContext& ctx) {
  THINWIRE_ASSERT(ctx.cache != nullptr ||
                      in.decoder.layout.batch() == memory.layout.batch(),
                  "{} sequences to decode, {} encoded",
                  in.decoder.layout.batch(), memory.layout.batch());
  return pass(Stack::kDecoder, in.decoder, &memory, ctx);
}

at::Tensor EncoderDecoder::pooled(const BackboneOutput&,
                                  const ForwardContext&) {
  fail<UsageError>(
      "{} has no pooler here; cast the task as text_to_text, or use a bert "
      "model",
      config_.architecture);
}

}  // namespace thinwire
