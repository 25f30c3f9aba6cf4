#include "dist/task_evals.h"

#include "base/error.h"

namespace thinwire {
namespace {

std::vector<std::string> scores_of(const TaskEval& task,
                                   std::string_view main_metric) {
  if (!task.metrics.empty()) return task.metrics;
  if (main_metric == "loss") return {};
  return {std::string(main_metric)};
}

double metric_of(const EvalRecord& record, const std::string& name) {
  const auto found = record.metrics.find(name);
  if (found != record.metrics.end() && name != "loss") return found->second;
  std::string names;
  for (const auto& [known, value] : record.metrics) {
    if (known != "loss") names += (names.empty() ? "" : ", ") + known;
  }
  fail<UsageError>("task {}: '{}' is no score of it; choose from: {}",
                   record.task, name, names);
}

}  // namespace

EvalRecord average_tasks(std::span<const TaskEval> tasks,
                         std::span<const EvalRecord> records,
                         std::string_view main_metric) {
  THINWIRE_ASSERT(!tasks.empty() && tasks.size() == records.size(),
                  "{} records of {} tasks", records.size(), tasks.size());
  EvalRecord all;
  double sum = 0, loss = 0;
  std::size_t scored = 0;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const EvalRecord& r = records[i];
    const auto names = scores_of(tasks[i], main_metric);
    double score = 0;
    for (const std::string& name : names) {
      const double value = metric_of(r, name);
      all.metrics[tasks[i].name + "." + name] = value;
      score += value / static_cast<double>(names.size());
    }
    sum += score;
    scored += names.empty() ? 0 : 1;
    loss += r.metrics.at("loss");
    all.samples += r.samples;
    all.seconds += r.seconds;
  }
  const auto n = static_cast<double>(tasks.size());
  if (scored == tasks.size()) all.metrics["average"] = sum / n;
  all.metrics["loss"] = loss / n;
  return all;
}

std::vector<EvalRecord> evaluate_tasks(Communicator& comm, Backbone& backbone,
                                       Task& task,
                                       std::span<const TaskEval> tasks,
                                       const EvalOptions& options) {
  std::vector<EvalRecord> out;
  for (const TaskEval& t : tasks) {
    out.push_back(evaluate(comm, backbone, task, *t.folder, options));
    out.back().task = t.name;
  }
  out.push_back(average_tasks(tasks, out, task.main_metric()));
  return out;
}

std::vector<EvalRecord> evaluate_run(const TrainRun& run,
                                     const EvalOptions& options) {
  if (!run.task_evals.empty()) {
    return evaluate_tasks(*run.comm, *run.backbone, *run.task, run.task_evals,
                          options);
  }
  return {evaluate(*run.comm, *run.backbone, *run.task, *run.eval, options)};
}

}  // namespace thinwire
