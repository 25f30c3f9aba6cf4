#include "dist/ensemble.h"

#include <utility>

#include "base/error.h"
#include "dist/declare.h"
#include "dist/stopwatch.h"
#include "dist/task_evals.h"

namespace thinwire {
namespace {

void require_answers(const Task& task, const Ensemble& ensemble) {
  if (task.answer() != Answer::kLoss || ensemble.size() == 1) return;
  fail<UsageError>(
      "task.kind: {} gives losses, not answers to vote on; take one delta of "
      "the {}",
      task.kind(), ensemble.size());
}

// For member m of all: progress through all of them.
EvalOptions part_of(const EvalOptions& options, std::size_t m,
                    std::size_t all) {
  EvalOptions out = options;
  if (options.progress) {
    out.progress = [&options, m, all](std::int64_t done, std::int64_t of) {
      options.progress(done + static_cast<std::int64_t>(m) * of,
                       static_cast<std::int64_t>(all) * of);
    };
  }
  return out;
}

// f(options) with each member's numbers in place.
template <class F>
void for_members(Ensemble& ensemble, const EvalOptions& options, const F& f) {
  for (std::size_t m = 0; m < ensemble.size(); ++m) {
    ensemble.take(m);
    f(part_of(options, m, ensemble.size()));
  }
}

struct FolderRecords {
  EvalRecord vote;
  std::vector<EvalRecord> members;
};

FolderRecords evaluate_folder(Communicator& comm, Backbone& backbone,
                              Task& task, const ShardFolder& folder,
                              const EvalOptions& options, Ensemble& ensemble) {
  require_answers(task, ensemble);
  FolderRecords out;
  if (ensemble.size() == 1) {
    out.vote = evaluate(comm, backbone, task, folder, options);
    out.members = {out.vote};
    return out;
  }
  const Stopwatch watch;
  // By sample, then by member.
  std::vector<std::vector<EvalRow>> rows;
  std::vector<std::vector<Prediction>> predictions;
  for_members(ensemble, options, [&](const EvalOptions& part) {
    const Stopwatch own;
    auto answers = evaluate_and_predict(comm, backbone, task, folder, part);
    rows.resize(answers.size());
    predictions.resize(answers.size());
    std::vector<EvalRow> own_rows;
    for (std::size_t i = 0; i < answers.size(); ++i) {
      own_rows.push_back(answers[i].row);
      rows[i].push_back(std::move(answers[i].row));
      predictions[i].push_back(std::move(answers[i].prediction));
    }
    out.members.push_back(record_of(task, own_rows, own.total() / 1000));
  });
  std::vector<EvalRow> voted;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Vote winner = vote(task.answer(), predictions[i]);
    voted.push_back(voted_row(task.answer(), winner, rows[i]));
  }
  out.vote = record_of(task, voted, watch.total() / 1000);
  return out;
}

}  // namespace

Ensemble::Ensemble(Backbone& backbone,
                   std::vector<std::unique_ptr<Method>>& methods,
                   std::vector<Delta> members)
    : backbone_(backbone), members_(std::move(members)) {
  THINWIRE_ASSERT(!members_.empty(), "an ensemble of none");
  place_delta(backbone, members_.front());
  attach_delta(backbone, methods, members_.front());
}

void Ensemble::exchange_with_first(std::size_t member) {
  Delta &first = members_.front(), &other = members_[member];
  first.swap(other.values());
  for (auto& [name, buffer] : first.buffers()) {
    at::Tensor& theirs = other.buffers().at(name).tensor;
    const at::Tensor own = buffer.tensor.clone();
    buffer.tensor.copy_(theirs);
    theirs.copy_(own);
  }
}

void Ensemble::take(std::size_t member) {
  THINWIRE_ASSERT(member < size(), "member {} of {}", member, size());
  if (member == taken_) return;
  if (taken_ != 0) exchange_with_first(taken_);
  if (member != 0) exchange_with_first(member);
  taken_ = member;
  members_.front().write_back(backbone_.parameters());
}

EnsembleRecords evaluate_ensemble(Communicator& comm, Backbone& backbone,
                                  Task& task, const ShardFolder& folder,
                                  const EvalOptions& options,
                                  Ensemble& ensemble) {
  auto of = evaluate_folder(comm, backbone, task, folder, options, ensemble);
  EnsembleRecords out{{std::move(of.vote)}, {}};
  for (EvalRecord& member : of.members) {
    out.members.push_back({std::move(member)});
  }
  return out;
}

EnsembleRecords evaluate_ensemble(Communicator& comm, Backbone& backbone,
                                  Task& task, std::span<const TaskEval> tasks,
                                  const EvalOptions& options,
                                  Ensemble& ensemble) {
  EnsembleRecords out;
  out.members.resize(ensemble.size());
  for (const TaskEval& t : tasks) {
    auto of =
        evaluate_folder(comm, backbone, task, *t.folder, options, ensemble);
    const auto take_record = [&](std::vector<EvalRecord>& to,
                                 EvalRecord& from) {
      from.task = t.name;
      to.push_back(std::move(from));
    };
    take_record(out.vote, of.vote);
    for (std::size_t m = 0; m < of.members.size(); ++m) {
      take_record(out.members[m], of.members[m]);
    }
  }
  const auto add_average = [&](std::vector<EvalRecord>& records) {
    records.push_back(average_tasks(tasks, records, task.main_metric()));
  };
  add_average(out.vote);
  for (auto& records : out.members) add_average(records);
  return out;
}

std::vector<Vote> predict_ensemble(Communicator& comm, Backbone& backbone,
                                   Task& task, const ShardFolder& folder,
                                   const EvalOptions& options,
                                   Ensemble& ensemble) {
  require_answers(task, ensemble);
  std::vector<std::vector<Prediction>> all;  // by sample, then by member
  for_members(ensemble, options, [&](const EvalOptions& part) {
    auto own = predict(comm, backbone, task, folder, part);
    all.resize(own.size());
    for (std::size_t i = 0; i < own.size(); ++i) {
      all[i].push_back(std::move(own[i]));
    }
  });
  std::vector<Vote> out;
  for (const auto& of_sample : all) {
    out.push_back(vote(task.answer(), of_sample));
  }
  return out;
}

}  // namespace thinwire
