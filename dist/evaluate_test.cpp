#include "dist/evaluate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "data/decode.h"
#include "dist/declare.h"
#include "dist/testing.h"
#include "peft/fisher.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

struct Model {
  explicit Model(bool text, bool head = true) {
    TempFolder folder;
    write_file(folder / "config.json",
               text ? t5_config(0.1) : bert_config(0.1));
    backbone = random_backbone(folder / "config.json", 1);
    task = make_tiny_task(text);
    if (head) task->add_head(*backbone, *random_source(1));
  }
  std::unique_ptr<Backbone> backbone;
  std::unique_ptr<Task> task;
};

// 13 samples in batches of 3: five batches, the last of one sample, over 1, 2,
// 4 ranks and 7, two of which have none.
TEST(Evaluate, MetricsAreTheSameBitsForAnyNumberOfRanks) {
  for (const bool text : {false, true}) {
    const auto folder = make_folder(13, text);
    std::vector<Metrics> seen;
    std::mutex mutex;
    for (const int ranks : {1, 2, 4, 7}) {
      run_ranks(ranks, [&](Communicator& comm) {
        Model model(text);
        const EvalRecord record =
            evaluate(comm, *model.backbone, *model.task, *folder,
                     {.batch_size = 3, .progress = {}});
        const std::lock_guard lock(mutex);
        EXPECT_EQ(record.samples, 13);
        seen.push_back(record.metrics);
      });
    }
    ASSERT_EQ(seen.size(), 14u);
    EXPECT_GT(seen[0].at("loss"), 0);
    EXPECT_THAT(seen, ::testing::Each(seen[0]));
  }
}

// Words "a0", "a1", … by token; the references of sample i are two texts.
class AnsweredFolder : public MemoryFolder {
 public:
  explicit AnsweredFolder(const ShardFolder& plain)
      : MemoryFolder(plain.read(0, plain.index().samples), plain.index()) {
    nlohmann::json table = {
        {"version", 1}, {"decoder", "plain"}, {"special", {0, 1}}};
    for (int id = 0; id < 40; ++id) {
      table["tokens"].push_back("a" + std::to_string(id));
    }
    write_file(path() + "/vocab.json", table.dump());
  }
  static std::vector<std::string> answers(std::int64_t i) {
    std::string other;
    for (std::int64_t id = i; id < i + 30; ++id) {
      other += "a" + std::to_string(id) + " ";
    }
    return {"a5 a6 a7", other};
  }
  References references(std::int64_t first, std::int64_t count) const override {
    References out;
    for (auto i = first; i < first + count; ++i) out.push_back(answers(i));
    return out;
  }
};

// Figures of texts: those of the predicted texts one by one, for any number of
// ranks.
TEST(Evaluate, JudgesWhatPredictWrites) {
  const TaskConfig metrics = {{"metrics", {"bleu", "rouge", "squad"}},
                              {"num_beams", 2},
                              {"max_new_tokens", 6}};
  const auto plain = make_folder(13, true);
  const AnsweredFolder folder(*plain);
  std::vector<Metrics> seen;
  std::vector<Prediction> texts;
  std::mutex mutex;
  for (const int ranks : {1, 2, 7}) {
    run_ranks(ranks, [&](Communicator& comm) {
      Model model(true);
      model.task = make_tiny_task(true, metrics);
      model.task->add_head(*model.backbone, *random_source(1));
      const EvalOptions options{.batch_size = 3, .progress = {}};
      const EvalRecord record =
          evaluate(comm, *model.backbone, *model.task, folder, options);
      const auto written =
          predict(comm, *model.backbone, *model.task, folder, options);
      const std::lock_guard lock(mutex);
      seen.push_back(record.metrics);
      texts = written;
    });
  }
  ASSERT_EQ(seen.size(), 10u);
  EXPECT_THAT(seen, ::testing::Each(seen[0]));
  const auto task = make_tiny_task(true, metrics);
  EXPECT_EQ(task->main_metric(), "bleu");
  const TextDecoder decoder(folder.path() + "/vocab.json");
  std::vector<EvalRow> rows;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EvalRow row;
    row.loss_weight = 1;
    row.figures = task->text_figures(
        decoder.text(texts[i].tokens.value()),
        AnsweredFolder::answers(static_cast<std::int64_t>(i)));
    rows.push_back(row);
  }
  const Metrics want = task->metrics(rows);
  for (const char* name :
       {"rouge1", "rouge2", "rouge_l", "bleu", "exact_match", "f1"}) {
    EXPECT_EQ(seen[0].at(name), want.at(name)) << name;
  }
  EXPECT_GT(want.at("rouge1"), 0);
}

TEST(Evaluate, TextsWithoutReferencesAreRefused) {
  const auto folder = make_folder(5, true);
  write_file(folder->path() + "/vocab.json",
             R"({"version": 1, "decoder": "plain", "special": [],
                 "tokens": ["a"]})");
  run_ranks(2, [&](Communicator& comm) {
    Model model(true);
    model.task = make_tiny_task(true, {{"metrics", {"squad"}}});
    try {
      evaluate(comm, *model.backbone, *model.task, *folder,
               {.batch_size = 3, .progress = {}});
      ADD_FAILURE();
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), ::testing::HasSubstr("has no references"));
    }
  });
}

TEST(Evaluate, TakesTheFirstSamplesWhereAsked) {
  const auto folder = make_folder(13, false);
  const auto five = make_folder(5, false);
  const auto loss = [](const ShardFolder& f, std::int64_t samples) {
    Metrics metrics;
    run_ranks(1, [&](Communicator& comm) {
      Model model(false);
      metrics = evaluate(comm, *model.backbone, *model.task, f,
                         {.batch_size = 2, .samples = samples, .progress = {}})
                    .metrics;
    });
    return metrics;
  };
  EXPECT_EQ(loss(*folder, 5), loss(*five, 0));
  EXPECT_NE(loss(*folder, 0), loss(*five, 0));
}

TEST(Predict, RowsComeInStorageOrderOnEveryRank) {
  for (const bool text : {false, true}) {
    const auto folder = make_folder(10, text);
    std::vector<std::vector<Prediction>> all;
    std::mutex mutex;
    for (const int ranks : {1, 3}) {
      run_ranks(ranks, [&](Communicator& comm) {
        Model model(text);
        auto rows = predict(comm, *model.backbone, *model.task, *folder,
                            {.batch_size = 3, .progress = {}});
        const std::lock_guard lock(mutex);
        all.push_back(std::move(rows));
      });
    }
    ASSERT_EQ(all.size(), 4u);
    for (const auto& rows : all) {
      ASSERT_EQ(rows.size(), 10u);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        EXPECT_EQ(rows[i].sample, 1000 + i);
        EXPECT_EQ(rows[i].value, all[0][i].value);
        EXPECT_EQ(rows[i].scores, all[0][i].scores);
        EXPECT_EQ(rows[i].tokens, all[0][i].tokens);
      }
    }
    EXPECT_EQ(all[0][0].scores.size(), text ? 0u : 3u);
  }
}

// Weights of all examples, and their Fisher scores: dealt anyhow, the same.
struct Scored {
  std::vector<double> weights;
  std::vector<float> sums;
};

// Hands on what `scoring` runs and notes the weights.
class Watched : public Scoring {
 public:
  Watched(Scoring& scoring, std::vector<double>& weights)
      : scoring_(scoring), weights_(weights) {}
  void for_each_batch(std::int64_t samples, Labels labels,
                      const Visit& visit) override {
    scoring_.for_each_batch(
        samples, labels, [&](std::span<const double> weights, const auto& run) {
          weights_.insert(weights_.end(), weights.begin(), weights.end());
          visit(weights, run);
        });
  }
  void for_each_example(std::int64_t samples, Labels labels,
                        const Visit& visit) override {
    scoring_.for_each_example(samples, labels, visit);
  }
  Backbone& backbone() override { return scoring_.backbone(); }
  void sum_over_ranks(std::span<at::Tensor> tensors) override {
    scoring_.sum_over_ranks(tensors);
  }
  void progress(std::string_view, std::int64_t, std::int64_t) override {}

 private:
  Scoring& scoring_;
  std::vector<double>& weights_;
};

Scored score(int ranks, bool text, std::int64_t samples,
             Scoring::Labels labels) {
  const auto folder = make_folder(12, text);
  Scored out;
  std::mutex mutex;
  run_ranks(ranks, [&](Communicator& comm) {
    Model model(text);
    const auto scoring =
        make_scoring(comm, *model.backbone, *model.task, folder, 5, nullptr);
    std::vector<int> slots;
    for (int i = 0; i < model.backbone->parameters().size(); ++i) {
      slots.push_back(i);
    }
    std::vector<double> weights;
    Watched watched(*scoring, weights);
    const std::vector<at::Tensor> scores =
        fisher_scores(*model.backbone, slots, watched, samples, labels);
    const std::lock_guard lock(mutex);
    out.weights.insert(out.weights.end(), weights.begin(), weights.end());
    if (comm.rank() != 0) return;
    for (const at::Tensor& s : scores) {
      const float* data = s.const_data_ptr<float>();
      out.sums.insert(out.sums.end(), data, data + s.numel());
    }
  });
  return out;
}

void expect_close(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += a[i] * a[i];
  }
  EXPECT_GT(norm, 0);
  EXPECT_LT(difference, 1e-10 * norm);
}

TEST(Scoring, DealsTheSameExamplesToAnyNumberOfRanks) {
  for (const bool text : {false, true}) {
    const Scored one = score(1, text, 7, Scoring::Labels::kData);
    EXPECT_EQ(one.weights, std::vector<double>(7, 1.0));
    for (const int ranks : {2, 4}) {
      const Scored many = score(ranks, text, 7, Scoring::Labels::kData);
      EXPECT_EQ(many.weights.size(), 7u);
      expect_close(many.sums, one.sums);
    }
  }
}

TEST(Scoring, ModelLabelsAreWeighedByTheirProbability) {
  const Scored one = score(1, false, 5, Scoring::Labels::kModel);
  ASSERT_EQ(one.weights.size(), 15u);  // 3 classes
  double total = 0;
  for (const double weight : one.weights) total += weight;
  EXPECT_NEAR(total, 5, 1e-5);
  expect_close(score(2, false, 5, Scoring::Labels::kModel).sums, one.sums);
  const Scored text = score(1, true, 5, Scoring::Labels::kModel);
  EXPECT_EQ(text.weights, std::vector<double>(5, 1.0));  // one draw each
  expect_close(score(4, true, 5, Scoring::Labels::kModel).sums, text.sums);
}

// One by one: as many passes, and the same gradient in all.
TEST(Scoring, OneExampleAtATime) {
  for (const int ranks : {1, 2}) {
    std::mutex mutex;
    std::size_t passes = 0;
    run_ranks(ranks, [&](Communicator& comm) {
      Model model(false);
      const auto scoring = make_scoring(comm, *model.backbone, *model.task,
                                        make_folder(12, false), 5, nullptr);
      EXPECT_EQ(&scoring->backbone(), model.backbone.get());
      const Parameters& p = model.backbone->parameters();
      at::Tensor weight = p.slot(p.require("bert.pooler.dense.weight")).frozen;
      weight.requires_grad_(true);
      const auto run = [&](const auto& each) {
        weight.mutable_grad() = at::Tensor();
        each([&](std::span<const double> weights, const auto& backward) {
          const std::lock_guard lock(mutex);
          passes += weights.size() == 1;
          backward();
        });
        return weight.grad().clone();
      };
      const at::Tensor batched = run([&](const Scoring::Visit& visit) {
        scoring->for_each_batch(7, Scoring::Labels::kData, visit);
      });
      {
        comm.barrier();
        const std::lock_guard lock(mutex);
        passes = 0;
      }
      comm.barrier();
      const at::Tensor single = run([&](const Scoring::Visit& visit) {
        scoring->for_each_example(7, Scoring::Labels::kData, visit);
      });
      EXPECT_LT(single.sub(batched).norm().item<double>(),
                1e-5 * batched.norm().item<double>());
    });
    EXPECT_EQ(passes, 7u);
  }
}

TEST(Scoring, TakesAllWhereMoreAreAskedFor) {
  EXPECT_EQ(score(2, false, 100, Scoring::Labels::kData).weights.size(), 12u);
}

}  // namespace
}  // namespace thinwire
