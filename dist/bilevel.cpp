#include "dist/bilevel.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/gradient.h"
#include "dist/together.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

// DARTS's step along v, and the released code's guard against v = 0.
constexpr double kReach = 0.01, kTiny = 1e-6;

Delta make_alpha(std::size_t n) {
  DeltaBuilder builder;
  declare_dense(builder, "alpha",
                at::zeros({static_cast<std::int64_t>(n)}, at::kFloat));
  return builder.build();
}

TrainOptions plain_adamw() {
  TrainOptions options;
  options.optimizer = "adamw";
  return options;
}

// state() shares the optimizer's own memory.
NamedTensors copy_of(const NamedTensors& state) {
  NamedTensors copy;
  for (const auto& [name, tensor] : state) {
    copy.emplace_back(name, tensor.clone());
  }
  return copy;
}

std::vector<bool> all_active(const Delta& delta) {
  return std::vector<bool>(delta.entries().size(), true);
}

}  // namespace

Bilevel::Bilevel(Communicator& comm, GatedModules& modules, GateBudget budget,
                 const TrainOptions& train, const BilevelOptions& options)
    : comm_(comm),
      modules_(modules),
      budget_(std::move(budget)),
      clip_(train.clip),
      options_(options),
      optimizer_(train, modules.delta()),
      alpha_(make_alpha(modules.counts().size())),
      alpha_optimizer_(plain_adamw(), alpha_) {}

std::vector<double> Bilevel::alpha() const {
  const float* a = alpha_.values().const_data_ptr<float>();
  return {a, a + alpha_.trainable()};
}

Bilevel::Gradient Bilevel::gradient(const Pass& pass) {
  modules_.zero_grads();
  at::Tensor sums = at::zeros({2 + std::ssize(budget_.counts)}, at::kDouble);
  double* sum = sums.mutable_data_ptr<double>();
  together(comm_, [&] {
    const LossTerms terms = pass();
    if (terms.sum.requires_grad()) terms.sum.backward();
    sum[0] = terms.sum.item<double>();
    sum[1] = terms.weight;
    std::ranges::copy(modules_.gate_grads(), sum + 2);
    return true;
  });
  comm_.all_reduce(modules_.delta().grads(), ReduceOp::kSum,
                   {.tag = "the modules' gradient"});
  comm_.all_reduce(sums, ReduceOp::kSum, {.tag = "the gates' gradient"});
  if (sum[1] <= 0) {
    fail<Error>("search: no example of a batch has a loss on any rank");
  }
  Gradient g;
  g.scale = 1 / sum[1];
  g.loss = sum[0] * g.scale;
  g.gates.assign(sum + 2, sum + sums.numel());
  for (double& gate : g.gates) gate *= g.scale;
  const std::string entry = first_nonfinite(modules_.delta());
  if (!entry.empty() || !std::ranges::all_of(g.gates, [](double x) {
        return std::isfinite(x);
      })) {
    fail<Error>(
        "search: the gradient of {} is not finite (lower train.lr or "
        "search.lr)",
        entry.empty() ? "the gates" : entry);
  }
  return g;
}

void Bilevel::move_modules(double lr, double scale, double clip) {
  Delta& delta = modules_.delta();
  const std::vector<bool> active = all_active(delta);
  const GradientScale scales = scale_gradient(delta, active, scale, clip);
  optimizer_.step(delta, active, lr, scales.group);
  modules_.values_changed();
}

std::vector<double> Bilevel::curvature(const Pass& train, const at::Tensor& v,
                                       double lr) {
  Delta& delta = modules_.delta();
  const double reach = kReach / (v.norm().item<double>() + kTiny);
  const at::Tensor w = delta.snapshot();
  const auto gates_at = [&](double by) {
    delta.restore(w.add(v, by));
    modules_.values_changed();
    return gradient(train).gates;
  };
  std::vector<double> gates = gates_at(reach);
  const std::vector<double> behind = gates_at(-reach);
  delta.restore(w);
  modules_.values_changed();
  for (std::size_t i = 0; i < gates.size(); ++i) {
    gates[i] = -lr * (gates[i] - behind[i]) / (2 * reach);
  }
  return gates;
}

void Bilevel::move_alpha(const std::vector<double>& gradient, double lr) {
  std::ranges::transform(gradient, alpha_.grads().mutable_data_ptr<float>(),
                         [](double g) { return static_cast<float>(g); });
  const std::vector<bool> active = all_active(alpha_);
  alpha_optimizer_.step(
      alpha_, active, lr,
      scale_gradient(alpha_, active, 1, options_.gate_clip).group);
}

Bilevel::Outcome Bilevel::step(const Inputs& in) {
  Delta& delta = modules_.delta();
  const std::vector<double> p = probabilities();
  const std::vector<double> z = concrete_gates(p, in.noise);
  modules_.set_gates(z);
  Outcome outcome;
  std::vector<double> dz;
  if (options_.second_order) {
    const at::Tensor w = delta.snapshot();
    const NamedTensors state = copy_of(optimizer_.state());
    const Gradient train = gradient(in.train);
    move_modules(in.lr, train.scale, /*clip=*/0);
    const Gradient valid = gradient(in.valid);
    const at::Tensor v = delta.grads().mul(valid.scale);
    delta.restore(w);
    modules_.values_changed();
    optimizer_.load(state, "search");
    outcome.valid_loss = valid.loss;
    dz = valid.gates;
    const std::vector<double> more = curvature(in.train, v, in.lr);
    std::ranges::transform(dz, more, dz.begin(), std::plus<>());
  } else {
    const Gradient valid = gradient(in.valid);
    outcome.valid_loss = valid.loss;
    dz = valid.gates;
  }
  outcome.gradient = alpha_gradient(p, z, dz, budget_);
  move_alpha(outcome.gradient, in.gate_lr);

  modules_.set_gates(concrete_gates(probabilities(), in.noise_of_step));
  const Gradient train = gradient(in.train);
  outcome.train_loss = train.loss;
  move_modules(in.lr, train.scale, clip_);
  return outcome;
}

}  // namespace thinwire
