// 24 steps against torch.optim.AdamW, transformers.Adafactor and Lion in NumPy
// (tests/golden/make_optimizers.py).
#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include <string>

#include "dist/optimizer.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

constexpr const char* kEntries[] = {"matrix", "stack", "vector", "masked"};

Delta make_delta(const SafetensorsFile& file) {
  DeltaBuilder builder;
  for (const std::string name : kEntries) {
    const at::Tensor initial = file.tensor("initial." + name);
    DeltaEntry e;
    e.name = name;
    e.shape = initial.sizes().vec();
    e.group = builder.group({.name = "all"});
    if (name == "masked") {
      e.kind = EntryKind::kMasked;
      e.shape = {10, 20};
      e.index = at::arange(1, 200, 4, at::kInt);
    }
    builder.add(e, initial);
  }
  return builder.build();
}

// What a step rounds is 2^-25 of a number or so: over 24 steps 4e-7 in the
// mean, and 1e-5 of the way it came.
void expect_close(const std::string& name, const at::Tensor& got,
                  const at::Tensor& want, const at::Tensor& start) {
  const auto norm = [](const at::Tensor& t) { return t.norm().item<double>(); };
  const at::Tensor x = got.to(at::kDouble), y = want.to(at::kDouble);
  const double way = norm(y.sub(start));
  EXPECT_GT(way, 0) << name;
  EXPECT_LT(norm(x.sub(y)), 4e-7 * norm(y) + 1e-5 * way) << name;
}

void follow(const std::string& run, const TrainOptions& options) {
  SCOPED_TRACE(run);
  const SafetensorsFile file(golden_path("optimizers/golden.safetensors"));
  Delta delta = make_delta(file);
  Optimizer optimizer(options, delta);
  const auto of = [&](const at::Tensor& flat, std::size_t i) {
    const DeltaEntry& e = delta.entries()[i];
    return flat.narrow(0, e.offset, e.count)
        .view(file.tensor(std::string("initial.") + kEntries[i]).sizes());
  };
  for (std::int64_t step = 1; step <= 24; ++step) {
    for (std::size_t i = 0; i < std::size(kEntries); ++i) {
      // Scaled by 4, which the step takes back.
      of(delta.grads(), i)
          .copy_(file.tensor(std::string("grads.") + kEntries[i])[step - 1])
          .mul_(4);
    }
    optimizer.step(delta, {true, true, true, true}, options.lr, {0.25});
    const std::string at = run + "." + std::to_string(step) + ".";
    if (!file.contains(at + "matrix")) continue;
    for (std::size_t i = 0; i < std::size(kEntries); ++i) {
      expect_close(at + kEntries[i], of(delta.values(), i),
                   file.tensor(at + kEntries[i]),
                   file.tensor(std::string("initial.") + kEntries[i]));
    }
  }
}

TrainOptions options_of(const std::string& optimizer) {
  TrainOptions o;
  o.optimizer = optimizer;
  o.lr = 1e-2;
  return o;
}

TEST(OptimizerGolden, Adamw) {
  TrainOptions o = options_of("adamw");
  o.weight_decay = 0.1;
  follow("adamw", o);
  o.weight_decay = 0;
  o.beta1 = 0.8;
  o.beta2 = 0.95;
  o.epsilon = 1e-6;
  follow("adamw_betas", o);
}

TEST(OptimizerGolden, Lion) {
  TrainOptions o = options_of("lion");
  o.weight_decay = 0.1;
  follow("lion", o);
  o.weight_decay = 0;
  o.beta1 = 0.95;
  o.beta2 = 0.98;
  follow("lion_betas", o);
}

TEST(OptimizerGolden, Adafactor) {
  TrainOptions o = options_of("adafactor");
  follow("adafactor", o);
  o.scale_parameter = true;
  o.weight_decay = 0.1;
  follow("adafactor_scaled", o);
  o.beta1 = 0.9;
  o.clip_threshold = 0.5;
  o.decay_rate = -0.6;
  o.epsilon1 = 1e-8;
  o.epsilon2 = 2;
  follow("adafactor_mean", o);
}

TEST(OptimizerGolden, AdafactorWithARateOfItsOwn) {
  TrainOptions o = options_of("adafactor");
  o.lr = 1;
  o.relative_step = true;
  follow("adafactor_relative", o);
  o.warmup_init = true;
  o.scale_parameter = true;
  follow("adafactor_warmup", o);
}

}  // namespace
}  // namespace thinwire
