// Steps of a search against PyTorch in fp64 (tests/golden/make_bilevel.py), on
// one rank and on two that have half of each batch.
#include "dist/bilevel.h"

#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "comm/communicator.h"
#include "comm/threads.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;

struct Golden {
  SafetensorsFile file{golden_path("bilevel_t5/golden.safetensors")};
  Config about = testing::read_json(golden_path("bilevel_t5") + "/search.json");

  double at(const char* key, std::size_t step) const {
    return about.at(key).at(step).get<double>();
  }
  std::vector<double> numbers(const std::string& name) const {
    return to_vector(file.tensor(name));
  }
  static std::vector<double> to_vector(const at::Tensor& t) {
    const float* data = t.const_data_ptr<float>();
    return {data, data + t.numel()};
  }
};

at::Tensor tensor_of(const std::vector<double>& numbers) {
  return at::tensor(numbers, at::kFloat);
}

// A rank's part of the examples [first, first + count).
struct Part {
  Part(Tiny& tiny, Communicator& comm, std::int64_t first, std::int64_t count)
      : tiny(tiny),
        batch(tiny.examples(first + comm.rank() * count / comm.size(),
                            count / comm.size())) {}
  LossTerms operator()() const {
    return {tiny.loss(batch.input),
            batch.input.labels.ge(0).sum().item<double>()};
  }
  Tiny& tiny;
  HfBatch batch;
};

void search_and_compare(Communicator& comm, bool second_order) {
  const Golden golden;
  Tiny tiny(golden.about.at("model").get<std::string>());
  const auto method =
      make_method("sparse_structure", golden.about.at("config"));
  GatedModules modules(*tiny.backbone,
                       dynamic_cast<const StructureMethod&>(*method), 1);
  EXPECT_EQ(modules.counts(),
            golden.about.at("counts").get<std::vector<std::int64_t>>());
  Delta& delta = modules.delta();
  for (const DeltaEntry& e : delta.entries()) {
    ASSERT_TRUE(golden.file.contains("value." + e.name)) << e.name;
    delta.leaf(e.name).detach().copy_(golden.file.tensor("value." + e.name));
  }
  TrainOptions train;
  train.optimizer = "sgd";
  train.momentum = golden.about.at("momentum");
  train.clip = golden.about.at("clip");
  Bilevel bilevel(comm, modules,
                  {modules.counts(), golden.about.at("budget"), 1}, train,
                  {second_order, golden.about.at("gate_clip")});
  const Part on_train(tiny, comm, 0, 2), on_valid(tiny, comm, 2, 2);
  const std::string order = second_order ? "second." : "first.";
  const at::Tensor noise = golden.file.tensor("noise");
  for (std::int64_t i = 0; i < noise.size(0); ++i) {
    const auto step = static_cast<std::size_t>(i);
    const Bilevel::Outcome outcome = bilevel.step(
        {.lr = golden.at("lr", step),
         .gate_lr = golden.at("gate_lr", step),
         .noise = Golden::to_vector(noise[i][0].contiguous()),
         .noise_of_step = Golden::to_vector(noise[i][1].contiguous()),
         .train = on_train,
         .valid = on_valid});
    const std::string name = order + std::to_string(i) + ".";
    EXPECT_TRUE(golden_close(name + "gradient", tensor_of(outcome.gradient),
                             golden.file.tensor(name + "gradient"), 2e-3));
    EXPECT_TRUE(golden_close(name + "alpha", tensor_of(bilevel.alpha()),
                             golden.file.tensor(name + "alpha"), 2e-3));
    const std::vector<double> losses = golden.numbers(name + "losses");
    EXPECT_NEAR(outcome.train_loss / losses[0], 1, 1e-5);
    EXPECT_NEAR(outcome.valid_loss / losses[1], 1, 1e-5);
  }
  for (const DeltaEntry& e : delta.entries()) {
    EXPECT_TRUE(golden_close(e.name, delta.leaf(e.name).detach(),
                             golden.file.tensor(order + "value." + e.name),
                             1e-4));
  }
}

TEST(Bilevel, StepsOfSecondOrder) {
  for (const int ranks : {1, 2}) {
    run_ranks(ranks,
              [](Communicator& comm) { search_and_compare(comm, true); });
  }
}

TEST(Bilevel, StepsOfFirstOrder) {
  for (const int ranks : {1, 2}) {
    run_ranks(ranks,
              [](Communicator& comm) { search_and_compare(comm, false); });
  }
}

}  // namespace
}  // namespace thinwire
