// Five steps against PyTorch: LoRA on a tiny BERT under AdamW, clipping and a
// warmed-up linear schedule (tests/golden/make_train.py).
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "dist/declare.h"
#include "dist/golden_testing.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

at::Tensor entry_values(const Delta& delta, const DeltaEntry& e) {
  return delta.values().narrow(0, e.offset, e.count).view(e.shape);
}

void train_and_compare(Communicator& comm, const SafetensorsFile& file) {
  auto backbone = load_backbone(golden_path("train_bert"));
  const Digest identity = backbone->parameters().identity();
  auto task = make_tiny_task(false);
  task->add_head(*backbone, *random_source(1));
  std::vector<std::unique_ptr<Method>> methods;
  methods.push_back(make_method("lora", {{"r", 4}, {"alpha", 8}}));
  Delta delta = declare_delta(*backbone, methods, {});
  for (const DeltaEntry& e : delta.entries()) {
    ASSERT_TRUE(file.contains("initial." + e.name)) << e.name;
    entry_values(delta, e).copy_(file.tensor("initial." + e.name));
  }

  Recorder seen;
  TrainRun run{.comm = &comm,
               .backbone = backbone.get(),
               .identity = identity,
               .task = task.get(),
               .methods = &methods,
               .train = golden_folder(file),
               .eval = nullptr,
               .options = {},
               .folder = "",
               .config_text = "",
               .observer = &seen,
               .initial_delta = std::move(delta)};
  run.options.steps = 5;
  run.options.batch_size = 12 / comm.size();
  run.options.lr = 2e-2;
  run.options.warmup = 1;
  run.options.weight_decay = 0.05;
  run.options.clip = 0.3;
  const Recorder* recorder = &seen;
  std::map<std::string, at::Tensor> last;
  seen.on_step = [&](const StepRecord&) {
    for (const DeltaEntry& e : recorder->delta->entries()) {
      last[e.name] = entry_values(*recorder->delta, e).clone();
    }
  };
  run_training(run);

  const at::Tensor losses = file.tensor("losses"), norms = file.tensor("norms");
  ASSERT_EQ(seen.steps.size(), 5u);
  for (std::int64_t i = 0; i < 5; ++i) {
    const StepRecord& s = seen.steps[static_cast<std::size_t>(i)];
    const double loss = losses[i].item<double>();
    EXPECT_NEAR(s.loss, loss, 1e-5 * loss) << "step " << s.step;
    const double norm = norms[i].item<double>();
    EXPECT_NEAR(s.grad_norm, norm, 1e-4 * norm) << "step " << s.step;
  }
  EXPECT_EQ(last.size(), 2 * 2 * 2 + 2u);
  for (const auto& [name, values] : last) {
    EXPECT_TRUE(golden_close(name, values, file.tensor("final." + name), 2e-4));
  }
}

TEST(GoldenTrain, FiveStepsOfOneRank) {
  const SafetensorsFile file(golden_path("train_bert/golden.safetensors"));
  run_ranks(1, [&](Communicator& comm) { train_and_compare(comm, file); });
}

TEST(GoldenTrain, FiveStepsOfThreeRanks) {
  const SafetensorsFile file(golden_path("train_bert/golden.safetensors"));
  run_ranks(3, [&](Communicator& comm) { train_and_compare(comm, file); });
}

}  // namespace
}  // namespace thinwire
