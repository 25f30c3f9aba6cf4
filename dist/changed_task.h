// What the tests of faults and policies share: a task whose loss is changed on
// the way out, and how a job ends on each rank.
#pragma once

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dist/testing.h"

namespace thinwire::trial {

// A task whose training loss is changed on the way out.
class ChangedTask : public Task {
 public:
  using Change = std::function<LossTerms(LossTerms, const ForwardContext&)>;
  ChangedTask(std::unique_ptr<Task> task, Change change)
      : task_(std::move(task)), change_(std::move(change)) {}
  std::string_view kind() const override { return task_->kind(); }
  Answer answer() const override { return task_->answer(); }
  void add_head(Backbone& b, TensorSource& s) override {
    task_->add_head(b, s);
  }
  BackboneInput collate(std::span<const Sample> samples,
                        const ModelConfig& config) const override {
    return task_->collate(samples, config);
  }
  LossTerms loss(Backbone& b, const BackboneInput& in,
                 const ForwardContext& ctx) override {
    return change_(task_->loss(b, in, ctx), ctx);
  }
  at::Tensor logits(Backbone& b, const BackboneInput& in,
                    const ForwardContext& ctx) override {
    return task_->logits(b, in, ctx);
  }
  std::vector<Outcome> outcomes(Backbone& b, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    return task_->outcomes(b, in, ctx);
  }
  std::vector<EvalRow> evaluate(Backbone& b, const BackboneInput& in,
                                const ForwardContext& ctx) override {
    return task_->evaluate(b, in, ctx);
  }
  std::vector<Prediction> predict(Backbone& b, const BackboneInput& in,
                                  const ForwardContext& ctx) override {
    return task_->predict(b, in, ctx);
  }
  Metrics metrics(std::span<const EvalRow> rows) const override {
    return task_->metrics(rows);
  }
  std::string_view main_metric() const override { return task_->main_metric(); }
  bool judges_texts() const override { return task_->judges_texts(); }
  std::vector<double> text_figures(
      const std::string& text,
      std::span<const std::string> references) const override {
    return task_->text_figures(text, references);
  }

 private:
  std::unique_ptr<Task> task_;
  Change change_;
};

// change(terms, step) on rank 1 (or on all, rank -1).
inline void change_loss(
    Job& job, int only,
    std::function<LossTerms(LossTerms, std::uint64_t step)> change) {
  job.wrap = [=](std::unique_ptr<Task> task,
                 int rank) -> std::unique_ptr<Task> {
    if (only >= 0 && rank != only) return task;
    return std::make_unique<ChangedTask>(
        std::move(task), [=](LossTerms terms, const ForwardContext& ctx) {
          return change(std::move(terms), ctx.step);
        });
  };
}

struct Failure {
  std::string type, text;
};

// How the job ends on each rank; every rank must throw.
inline std::vector<Failure> failures(const Job& job, int ranks) {
  std::vector<Failure> seen(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    Failure& mine = seen[static_cast<std::size_t>(comm.rank())];
    try {
      run_job(job, comm);
      mine = {"none", ""};
    } catch (const UsageError& e) {
      mine = {"usage", e.what()};
    } catch (const IoError& e) {
      mine = {"io", e.what()};
    } catch (const CommError& e) {
      mine = {"comm", e.what()};
    } catch (const Error& e) {
      mine = {"error", e.what()};
    }
  });
  return seen;
}

inline auto type_is(const char* type) {
  return ::testing::Field("type", &Failure::type, type);
}
inline auto text_has(const char* text) {
  return ::testing::Field("text", &Failure::text, ::testing::HasSubstr(text));
}

}  // namespace thinwire::trial
