#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "peft/input_dropout.h"

#include "base/error.h"
#include "ops/dropout.h"

namespace thinwire {

InputDropout::InputDropout(double p, const std::string& name)
    : p_(p), site_(dropout_site(name)) {}

at::Tensor InputDropout::operator()(const at::Tensor& x,
                                    const ForwardContext& ctx) const {
  if (!acts(ctx)) return x;
  const DropoutKey key = ctx.dropout_key(site_);
  // A head reads one row of each sequence.
  if (x.size(0) == ctx.layout->rows()) {
    return dropout(x, p_, key, *ctx.layout);
  }
  return dropout_pooled(x, p_, key, *ctx.layout);
}

double checked_dropout(double p, const char* method) {
  if (!(p >= 0 && p < 1)) {
    fail<UsageError>("{}: dropout must be in [0, 1), got {}", method, p);
  }
  return p;
}

}  // namespace thinwire
