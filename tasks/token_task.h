// What tasks share whose labels are tokens, one per row of a stream, by the
// model's own output matrix: the decoder's stream, or that of a model that is
// nothing but a decoder. Internal to tasks/.
#pragma once

#include <vector>

#include "ops/linear_cross_entropy.h"
#include "tasks/task.h"

namespace thinwire {

class TokenTask : public Task {
 public:
  explicit TokenTask(double label_smoothing)
      : label_smoothing_(label_smoothing) {}

  LossTerms loss(Backbone& backbone, const BackboneInput& in,
                 const ForwardContext& ctx) override;
  // [T, V], rows of the stream.
  at::Tensor logits(Backbone& backbone, const BackboneInput& in,
                    const ForwardContext& ctx) override;
  // One target, each token drawn given the example's own tokens before it.
  std::vector<Outcome> outcomes(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) override;

 protected:
  // The stream whose rows in.labels are of.
  static const TokenStream& stream(const BackboneInput& in) {
    return in.decoder.tokens.defined() ? in.decoder : in.encoder;
  }

  // What one sequence's labels cost.
  struct TokenScore {
    double loss = 0;
    std::int64_t tokens = 0, likeliest = 0;  // labels; those the model prefers
  };
  // [B], outside autograd.
  static std::vector<TokenScore> scores(Backbone& backbone,
                                        const BackboneInput& in,
                                        const ForwardContext& ctx);

 private:
  const double label_smoothing_;
};

}  // namespace thinwire
