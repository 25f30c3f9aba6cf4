// Members of an ensemble answer as each would alone, whoever answered before,
// and what they say together is the vote over that.
#include "dist/ensemble.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "dist/declare.h"
#include "dist/task_evals.h"
#include "dist/testing.h"
#include "peft/tiny_config.h"

namespace thinwire {
namespace {

using namespace trial;  // dist/testing.h

constexpr std::size_t kMembers = 3;
const EvalOptions kOptions{.batch_size = 4, .progress = {}};

struct Case {
  std::string method;
  bool text;
};

struct Model {
  explicit Model(const Case& c) {
    const TempFolder folder;
    write_file(folder / "config.json",
               c.text ? t5_config(0.1) : bert_config(0.1));
    backbone = random_backbone(folder / "config.json", 1);
    task = make_tiny_task(c.text, c.text ? TaskConfig{{"max_new_tokens", 3}}
                                         : TaskConfig::object());
    task->add_head(*backbone, *random_source(1));
    methods.push_back(make_method(c.method, testing::tiny_config(c.method)));
  }

  // As the method declares it, each number moved a little, in its own way.
  Delta delta(std::size_t member) {
    Delta out = declare_delta(*backbone, methods, {.seed = 1});
    const auto key = make_key(member, Purpose::kTest);
    for (const DeltaEntry& e : out.entries()) {
      float* v = out.values().mutable_data_ptr<float>() + e.offset;
      for (std::int64_t i = 0; i < e.count; ++i) {
        const auto at = static_cast<std::uint32_t>(e.offset + i);
        v[i] +=
            static_cast<float>(uniform01(philox(key, {at, 0, 0, 0})[0]) - 0.5);
      }
    }
    return out;
  }

  std::unique_ptr<Backbone> backbone;
  std::unique_ptr<Task> task;
  std::vector<std::unique_ptr<Method>> methods;
};

std::vector<Delta> members_of(Model& model) {
  std::vector<Delta> out;
  for (std::size_t m = 0; m < kMembers; ++m) out.push_back(model.delta(m));
  return out;
}

struct Alone {
  Metrics metrics;
  std::vector<Prediction> predictions;
};

Alone alone(const Case& c, const ShardFolder& folder, std::size_t member,
            Communicator& comm) {
  Model model(c);
  const Delta delta = model.delta(member);
  attach_delta(*model.backbone, model.methods, delta);
  return {
      evaluate(comm, *model.backbone, *model.task, folder, kOptions).metrics,
      predict(comm, *model.backbone, *model.task, folder, kOptions)};
}

void expect_equal(const std::vector<Vote>& a, const std::vector<Vote>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].answer.sample, b[i].answer.sample) << i;
    EXPECT_EQ(a[i].answer.value, b[i].answer.value) << i;
    EXPECT_EQ(a[i].answer.scores, b[i].answer.scores) << i;
    EXPECT_EQ(a[i].answer.tokens, b[i].answer.tokens) << i;
    EXPECT_EQ(a[i].votes, b[i].votes) << i;
  }
}

class EnsembleOf : public ::testing::TestWithParam<Case> {};

TEST_P(EnsembleOf, MembersAnswerAsAloneAndVote) {
  const auto folder = make_folder(27, GetParam().text);
  std::vector<Alone> want(kMembers);
  run_ranks(1, [&](Communicator& comm) {
    for (std::size_t m = 0; m < kMembers; ++m) {
      want[m] = alone(GetParam(), *folder, m, comm);
    }
  });
  std::vector<Vote> votes;
  bool differ = false;
  for (std::size_t i = 0; i < 27; ++i) {
    std::vector<Prediction> of_sample;
    for (const Alone& a : want) of_sample.push_back(a.predictions[i]);
    votes.push_back(vote(Model(GetParam()).task->answer(), of_sample));
    differ |= votes.back().votes < std::ssize(want);
  }
  EXPECT_TRUE(differ);

  for (const int ranks : {1, 2, 4}) {
    run_ranks(ranks, [&](Communicator& comm) {
      Model model(GetParam());
      Ensemble ensemble(*model.backbone, model.methods, members_of(model));
      const auto predicted = [&] {
        return predict_ensemble(comm, *model.backbone, *model.task, *folder,
                                kOptions, ensemble);
      };
      const auto first = predicted();
      const EnsembleRecords records = evaluate_ensemble(
          comm, *model.backbone, *model.task, *folder, kOptions, ensemble);
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      expect_equal(first, votes);
      ASSERT_EQ(records.members.size(), kMembers);
      for (std::size_t m = 0; m < kMembers; ++m) {
        EXPECT_EQ(records.members[m].at(0).metrics, want[m].metrics) << m;
      }
      EXPECT_EQ(records.vote.at(0).samples, 27);
    });
  }
}

TEST_P(EnsembleOf, TakesMembersInAnyOrder) {
  const auto folder = make_folder(9, GetParam().text);
  run_ranks(1, [&](Communicator& comm) {
    Model model(GetParam());
    Ensemble ensemble(*model.backbone, model.methods, members_of(model));
    for (const std::size_t m : {2, 1, 1, 0, 2, 0}) {
      ensemble.take(m);
      EXPECT_EQ(evaluate(comm, *model.backbone, *model.task, *folder, kOptions)
                    .metrics,
                alone(GetParam(), *folder, m, comm).metrics)
          << m;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(
    Methods, EnsembleOf,
    ::testing::Values(Case{"prompt_tuning", false}, Case{"prompt_tuning", true},
                      Case{"fish_mask", false}, Case{"bitfit", true}),
    [](const auto& info) {
      return info.param.method + (info.param.text ? "_text" : "_classes");
    });

// Accuracy is that of the voted classes, of each task and on average.
TEST(Ensemble, MetricsAreThoseOfTheVote) {
  const Case c{"prompt_tuning", false};
  const std::vector<TaskEval> tasks{{"a", make_folder(13, false, 1), {}},
                                    {"b", make_folder(8, false, 2), {}}};
  run_ranks(1, [&](Communicator& comm) {
    Model model(c);
    Ensemble ensemble(*model.backbone, model.methods, members_of(model));
    const EnsembleRecords records = evaluate_ensemble(
        comm, *model.backbone, *model.task, tasks, kOptions, ensemble);
    ASSERT_EQ(records.vote.size(), 3u);
    double sum = 0;
    for (std::size_t t = 0; t < tasks.size(); ++t) {
      const ShardFolder& folder = *tasks[t].folder;
      const auto votes = predict_ensemble(comm, *model.backbone, *model.task,
                                          folder, kOptions, ensemble);
      const auto samples = folder.read(0, folder.index().samples);
      double right = 0;
      for (std::size_t i = 0; i < samples.size(); ++i) {
        right += votes[i].answer.value == samples[i].label ? 1 : 0;
      }
      right /= static_cast<double>(samples.size());
      EXPECT_DOUBLE_EQ(records.vote[t].metrics.at("accuracy"), right);
      EXPECT_EQ(records.vote[t].task, tasks[t].name);
      sum += right;
    }
    EXPECT_DOUBLE_EQ(records.vote[2].metrics.at("average"), sum / 2);
    for (const auto& member : records.members) {
      ASSERT_EQ(member.size(), 3u);
      EXPECT_EQ(member[1].task, "b");
      EXPECT_EQ(member[2].samples, 21);
    }
  });
}

}  // namespace
}  // namespace thinwire
