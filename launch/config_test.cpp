#include "launch/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "launch/config_fields.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

constexpr const char* kGood = R"(
model: {path: DIR}
task: {kind: classify, labels: 3}
data: {train: A, eval: B, batch_size: 8}
peft:
  - {method: lora, r: 4, target_modules: [query, value]}
  - {method: head}
train: {steps: 20, lr: 2e-3, schedule: cosine}
output: "runs/a b: c"
)";

std::string write(const std::string& text) {
  const std::string path =
      testing::TempDir() + "/config_test_" + std::to_string(getpid()) + ".yaml";
  std::ofstream(path) << text;
  return path;
}

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    load_run_config(write(kGood), overrides);
  } catch (const UsageError& error) {
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << testing::PrintToString(overrides);
  return "";
}

TEST(RunConfig, EveryCommittedConfigIsRead) {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(
           std::filesystem::path(THINWIRE_SOURCE_DIR) / "configs")) {
    const std::string path = entry.path();
    if (!path.ends_with(".yaml") || path.ends_with("_base.yaml")) continue;
    SCOPED_TRACE(path);
    const RunConfig c = load_run_config(path, {});
    EXPECT_FALSE(make_methods(c).empty());
    EXPECT_EQ(make_task(c)->kind(), c.task_kind);
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    EXPECT_TRUE(line.starts_with("about: "));  // what it is and what it costs
    ++seen;
  }
  EXPECT_GT(seen, 20);
}

TEST(RunConfig, ReadsWhatIsGivenAndFillsDefaults) {
  const RunConfig c = load_run_config(write(kGood), {});
  EXPECT_EQ(c.model.path, "DIR");
  EXPECT_EQ(c.task_kind, "classify");
  EXPECT_EQ(c.task.at("labels"), 3);
  EXPECT_EQ(c.train.batch_size, 8);
  EXPECT_EQ(c.train.lr, 2e-3);
  EXPECT_EQ(c.train.schedule, "cosine");
  EXPECT_FALSE(c.train.beta2);
  EXPECT_EQ(c.train.dropout, -1);
  ASSERT_EQ(c.peft.size(), 2u);
  EXPECT_EQ(c.peft[0].config.at("r"), 4);
  EXPECT_EQ(c.peft[0].config.at("alpha"), 16.0);
  EXPECT_EQ(make_methods(c)[1]->id(), "head");
}

TEST(RunConfig, ResolvedTextReadsBackAsItself) {
  const RunConfig c = load_run_config(write(kGood), {"train.lr=3.3e-5"});
  const RunConfig again = load_run_config(write(c.text), {});
  EXPECT_EQ(again.text, c.text);
  EXPECT_EQ(again.output, "runs/a b: c");
  EXPECT_EQ(again.train.lr, 3.3e-5);
}

TEST(RunConfig, DefaultsOfTheTableAreThoseOfTheTrainer) {
  const RunConfig c = load_run_config(
      write("model: {path: D}\ntask: {kind: classify, labels: 2}\n"
            "peft: [{method: head}]\n"),
      {});
  const TrainOptions plain;
  EXPECT_EQ(c.train.batch_size, plain.batch_size);
  EXPECT_EQ(c.train.lr, plain.lr);
  EXPECT_EQ(c.train.epsilon, plain.epsilon);
  EXPECT_EQ(c.train.beta1, plain.beta1);
  EXPECT_EQ(c.train.clip_threshold, plain.clip_threshold);
  EXPECT_EQ(c.train.decay_rate, plain.decay_rate);
  EXPECT_EQ(c.train.epsilon1, plain.epsilon1);
  EXPECT_EQ(c.train.epsilon2, plain.epsilon2);
  EXPECT_EQ(c.train.scale_parameter, plain.scale_parameter);
  EXPECT_EQ(c.train.clip, plain.clip);
  EXPECT_EQ(c.train.schedule, plain.schedule);
  EXPECT_EQ(c.train.max_skips, plain.max_skips);
  EXPECT_EQ(c.train.state_policy, plain.state_policy);
  EXPECT_EQ(c.train.bucket_window, plain.bucket_window);
  EXPECT_EQ(c.train.queue_batches, plain.queue_batches);
  EXPECT_EQ(c.train.keep, plain.keep);
  EXPECT_EQ(c.train.dropout, plain.dropout);
}

TEST(RunConfig, ReadsTheOptimizer) {
  const TrainOptions o =
      load_run_config(
          write(kGood),
          {"train.optimizer=adafactor", "train.beta1=0.8",
           "train.clip_threshold=2", "train.decay_rate=-0.5",
           "train.epsilon1=1e-20", "train.epsilon2=0.01",
           "train.scale_parameter=true", "train.relative_step=true",
           "train.warmup_init=true", "train.lr=1", "train.schedule=constant"})
          .train;
  EXPECT_EQ(o.optimizer, "adafactor");
  EXPECT_EQ(o.beta1, 0.8);
  EXPECT_FALSE(o.beta2);
  EXPECT_EQ(o.clip_threshold, 2);
  EXPECT_EQ(o.decay_rate, -0.5);
  EXPECT_EQ(o.epsilon1, 1e-20);
  EXPECT_EQ(o.epsilon2, 0.01);
  EXPECT_TRUE(o.scale_parameter && o.relative_step && o.warmup_init);
  EXPECT_THAT(error_of({"train.optimizer=adam"}), HasSubstr("adafactor"));
}

TEST(RunConfig, ReadsTheExchange) {
  const RunConfig plain = load_run_config(write(kGood), {});
  EXPECT_FALSE(plain.train.exchange.local());
  const ExchangeOptions e =
      load_run_config(
          write(kGood),
          {"comm.codec=int8", "comm.algorithm=ring", "comm.sync_every=30",
           "comm.outer_lr=0.7", "comm.outer_momentum=0.9",
           "comm.workers=disjoint", "comm.bucket_bytes=65536",
           "comm.overlap=false", "comm.error_feedback=false"})
          .train.exchange;
  EXPECT_EQ(e.codec, Codec::kInt8);
  EXPECT_EQ(e.algorithm, Algorithm::kRing);
  EXPECT_EQ(e.sync_every, 30);
  EXPECT_EQ(e.outer_lr, 0.7);
  EXPECT_EQ(e.outer_momentum, 0.9);
  EXPECT_EQ(e.workers, ExchangeOptions::Workers::kDisjoint);
  EXPECT_EQ(e.bucket_bytes, 65536);
  EXPECT_FALSE(e.overlap);
  EXPECT_FALSE(e.error_feedback);
  EXPECT_TRUE(e.local());
}

TEST(RunConfig, RefusalsNameKeyPlaceAndNearest) {
  EXPECT_THAT(error_of({"train.stpes=3"}), HasSubstr("train.steps"));
  EXPECT_THAT(error_of({"trian.steps=3"}), HasSubstr("did you mean train"));
  EXPECT_THAT(error_of({"peft.0.rank=3"}), HasSubstr("peft.0.rank"));
  EXPECT_THAT(error_of({"peft.0.method=lroa"}), HasSubstr("lora"));
  EXPECT_THAT(error_of({"peft.0.method=lroa"}), HasSubstr("command line"));
  EXPECT_THAT(error_of({"task.kind=clasify"}), HasSubstr("classify"));
  EXPECT_THAT(error_of({"train.steps=1.5"}), HasSubstr("whole number"));
  EXPECT_THAT(error_of({"train.steps=-1"}), HasSubstr("at least 0"));
  EXPECT_THAT(error_of({"train.lr=fast"}), HasSubstr("a number"));
  EXPECT_THAT(error_of({"train.lr=.nan"}), HasSubstr("a number"));
  EXPECT_THAT(error_of({"train.nesterov=1"}), HasSubstr("true or false"));
  EXPECT_THAT(error_of({"train.schedule=step"}), HasSubstr("cosine"));
  EXPECT_THAT(error_of({"train={}", "train.lr={a: 1}"}), HasSubstr("a map"));
  EXPECT_THAT(error_of({"model.config=x"}), HasSubstr("either path"));
  EXPECT_THAT(error_of({"model.path=~"}), HasSubstr("either path"));
  EXPECT_THAT(error_of({"peft=[]"}), HasSubstr("list of methods"));
  EXPECT_THAT(error_of({"peft.0={r: 4}"}), HasSubstr("peft.0.method"));
  EXPECT_THAT(error_of({"task={kind: classify}"}), HasSubstr("task.labels"));
  EXPECT_THAT(error_of({"train.epochs=2"}), HasSubstr("both set"));
  EXPECT_THAT(error_of({"comm.sync_every=0"}), HasSubstr("at least 1"));
  EXPECT_THAT(error_of({"comm.codec=fp16"}), HasSubstr("bf16"));
  EXPECT_THAT(error_of({"comm.algorithm=tree"}), HasSubstr("ring"));
  EXPECT_THAT(error_of({"comm.workers=own"}), HasSubstr("disjoint"));
  EXPECT_THAT(error_of({"comm.outer_lr=0.7"}), HasSubstr("comm.sync_every"));
  EXPECT_THAT(error_of({"comm.exchange=dense", "comm.codec=int8"}),
              HasSubstr("comm.codec: fp32"));
}

TEST(RunConfig, ReadsTheSearch) {
  EXPECT_FALSE(load_run_config(write(kGood), {}).search);
  const RunConfig c = load_run_config(
      write(kGood), {"search={budget: 0.01, data: GATES}", "search.lr=0.2"});
  ASSERT_TRUE(c.search);
  const SearchOptions plain;
  EXPECT_EQ(c.search->budget, 0.01);
  EXPECT_EQ(c.search->lr, 0.2);
  EXPECT_EQ(c.search->clip, plain.clip);
  EXPECT_EQ(c.search->temperature, plain.temperature);
  EXPECT_EQ(c.search->second_order, plain.second_order);
  EXPECT_EQ(c.search->batch_size, plain.batch_size);
  EXPECT_EQ(c.search_data, "GATES");
  EXPECT_THAT(c.text, HasSubstr("GATES"));
  EXPECT_THAT(c.agreed_text, testing::Not(HasSubstr("GATES")));
  EXPECT_EQ(load_run_config(write(c.text), {}).text, c.text);
  EXPECT_THAT(error_of({"search={}"}), HasSubstr("search.budget"));
  EXPECT_THAT(error_of({"search={budget: -1}"}), HasSubstr("at least 0"));
  EXPECT_THAT(error_of({"search={budget: 9, orders: 2}"}),
              HasSubstr("search.orders"));
}

// The config of a method inside another is as one of the list.
TEST(RunConfig, AMethodInsideAnother) {
  const std::string inside = "peft.0={method: fish_tuning, adapter: {method: ";
  const RunConfig c = load_run_config(
      write(kGood), {inside + "lora, r: 2}}", "peft.0.adapter.alpha=3"});
  const auto& adapter = c.peft[0].config.at("adapter");
  EXPECT_EQ(adapter.at("method"), "lora");
  EXPECT_EQ(adapter.at("r"), 2);
  EXPECT_EQ(adapter.at("alpha"), 3.0);
  EXPECT_EQ(adapter.at("train_head"), true);
  EXPECT_EQ(make_methods(c)[0]->id(), "fish_tuning");
  const RunConfig again = load_run_config(write(c.text), {});
  EXPECT_EQ(again.peft[0].config, c.peft[0].config);
  EXPECT_EQ(load_run_config(write(kGood), {"peft.0={method: sparse_adapter}"})
                .peft[0]
                .config.at("adapter")
                .at("method"),
            "houlsby");
  EXPECT_THAT(error_of({inside + "lora, rank: 2}}"}),
              HasSubstr("peft.0.adapter.r"));
  EXPECT_THAT(error_of({inside + "lroa}}"}), HasSubstr("lora"));
  EXPECT_THAT(error_of({inside + "lora, r: 0}}"}), HasSubstr("lora: r must"));
  EXPECT_THAT(error_of({"peft.0={method: fish_tuning, adapter: lora}"}),
              HasSubstr("peft.0.adapter must be a map"));
  EXPECT_THAT(error_of({"peft.0={method: fish_tuning, adapter: {r: 2}}"}),
              HasSubstr("peft.0.adapter.method is missing"));
}

TEST(RunConfig, HelpListsEveryKey) {
  const std::string help = config_help();
  for (const Section& section : config_sections()) {
    for (const SectionField& f : section.fields) {
      EXPECT_THAT(help, HasSubstr("  " + std::string(f.field.name) + " "));
    }
  }
  for (const MethodInfo& m : methods()) {
    EXPECT_THAT(help, HasSubstr("method: " + std::string(m.id)));
  }
}

TEST(Yaml, Emits) {
  const nlohmann::ordered_json json = {{"a", nullptr},
                                       {"b", {{"c", "true"}, {"d", 0.1}}},
                                       {"e", {"x", "y z"}},
                                       {"f", {{{"g", 1}, {"h", 2}}}}};
  EXPECT_EQ(to_yaml(json),
            "a: ~\nb:\n  c: \"true\"\n  d: 0.1\ne: [x, \"y z\"]\nf:\n"
            "  - g: 1\n    h: 2\n");
}

// A list that no line holds has a line for each item, wherever it stands.
TEST(Yaml, LongListsAreBlocks) {
  std::vector<std::string> names;
  std::string lines;
  for (int i = 0; i < 9; ++i) {
    names.push_back(fmt::format("encoder.layer.{}.norm", i));
    lines += "      - " + names.back() + "\n";
  }
  const nlohmann::ordered_json json = {
      {"peft", {{{"method", "head"}, {"of", names}, {"few", {1, 2}}}}}};
  EXPECT_EQ(to_yaml(json),
            "peft:\n  - method: head\n    of:\n" + lines + "    few: [1, 2]\n");
}

}  // namespace
}  // namespace thinwire
