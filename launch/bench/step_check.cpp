#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/bench/step_check.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>

#include "dist/declare.h"
#include "ops/reference.h"

namespace thinwire {
namespace {

// fp32 rounds at 6e-8; sums over layers, rows and words grow that. bf16 rounds
// activations at every product.
constexpr double kFp32 = 2e-3, kBf16 = 6e-2;

struct Finding {
  double loss = 0;
  at::Tensor gradient;
};

Finding answer(OpenRun& run, Delta& delta, std::span<const Sample> samples,
               std::size_t at_once) {
  delta.zero_grads();
  Finding out;
  for (std::size_t i = 0; i < samples.size(); i += at_once) {
    const auto part = samples.subspan(i, std::min(at_once, samples.size() - i));
    const BackboneInput in = run.task->collate(part, run.backbone->config());
    ForwardContext ctx;
    ctx.training = true;
    ctx.seed = run.config.train.seed;
    ctx.tasks = in.tasks;
    const at::Tensor loss = run.task->loss(*run.backbone, in, ctx).sum;
    out.loss += loss.item<double>();
    if (loss.requires_grad()) loss.backward();
  }
  out.gradient = delta.grads().clone();
  delta.zero_grads();
  return out;
}

StepCheck compare(std::string name, const Finding& ours, const Finding& other,
                  double tolerance) {
  StepCheck check{.name = std::move(name), .tolerance = tolerance};
  check.loss = ours.loss;
  check.loss_error =
      std::abs(ours.loss - other.loss) / std::max(std::abs(other.loss), 1e-12);
  check.norm = ours.gradient.norm().item<double>();
  check.gradient_error =
      ours.gradient.sub(other.gradient).norm().item<double>() /
      std::max(other.gradient.norm().item<double>(), 1e-12);
  // NaN compares as good with nothing.
  if (!std::isfinite(check.loss_error)) check.loss_error = HUGE_VAL;
  if (!std::isfinite(check.gradient_error)) check.gradient_error = HUGE_VAL;
  return check;
}

}  // namespace

std::vector<StepCheck> check_step(OpenRun& run, Delta& delta,
                                  std::span<const Sample> batch) {
  attach_delta(*run.backbone, run.methods, delta);
  const double tolerance = run.config.model.dtype != "fp32" ? kBf16 : kFp32;
  const Finding ours = answer(run, delta, batch, batch.size());
  const Finding single = answer(run, delta, batch, 1);
  Finding plain;
  {
    const UseReferenceOps twins;
    plain = answer(run, delta, batch, batch.size());
  }
  return {compare("one example at a time", ours, single, tolerance),
          compare("plain twins of the kernels", ours, plain, tolerance)};
}

}  // namespace thinwire
