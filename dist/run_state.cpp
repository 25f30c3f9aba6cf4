#include "dist/run_state.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>

#include "base/error.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 2;

// JSON has no NaN: it is written as null.
double number(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN()
                        : json.get<double>();
}

Json record_to_json(const std::optional<EvalRecord>& record) {
  if (!record) return nullptr;
  Json metrics = Json::object();
  for (const auto& [name, value] : record->metrics) metrics[name] = value;
  return {{"step", record->step},       {"split", record->split},
          {"metrics", metrics},         {"samples", record->samples},
          {"seconds", record->seconds}, {"best", record->best}};
}

std::optional<EvalRecord> record_from_json(const Json& json) {
  if (json.is_null()) return std::nullopt;
  EvalRecord record;
  record.step = json.at("step").get<std::int64_t>();
  record.split = json.at("split").get<std::string>();
  for (const auto& [name, value] : json.at("metrics").items()) {
    record.metrics[name] = number(value);
  }
  record.samples = json.at("samples").get<std::int64_t>();
  record.seconds = json.at("seconds").get<double>();
  record.best = json.at("best").get<bool>();
  return record;
}

}  // namespace

nlohmann::ordered_json to_json(const RunState& s) {
  return {{"version", kVersion},
          {"step", s.step},
          {"phase_step", s.phase_step},
          {"samples", s.samples},
          {"skipped", s.skipped},
          {"skipped_in_row", s.skipped_in_row},
          {"stale", s.stale},
          {"eval_step", s.eval_step},
          {"sent_bytes", s.sent_bytes},
          {"first", record_to_json(s.first)},
          {"last", record_to_json(s.last)},
          {"best", record_to_json(s.best)},
          {"bucket_bytes", s.tuned.bucket_bytes},
          {"link",
           {{"alpha", s.tuned.link.alpha},
            {"beta", s.tuned.link.beta},
            {"gamma", s.tuned.link.gamma}}},
          {"bucket_order", s.tuned.order}};
}

RunState run_state_from_json(const nlohmann::ordered_json& json,
                             const std::string& where) {
  try {
    if (json.at("version") != kVersion) {
      fail<UsageError>("{}: state version {}, this build reads {}", where,
                       json.at("version").dump(), kVersion);
    }
    RunState s;
    json.at("step").get_to(s.step);
    json.at("phase_step").get_to(s.phase_step);
    json.at("samples").get_to(s.samples);
    json.at("skipped").get_to(s.skipped);
    json.at("skipped_in_row").get_to(s.skipped_in_row);
    json.at("stale").get_to(s.stale);
    json.at("eval_step").get_to(s.eval_step);
    json.at("sent_bytes").get_to(s.sent_bytes);
    s.first = record_from_json(json.at("first"));
    s.last = record_from_json(json.at("last"));
    s.best = record_from_json(json.at("best"));
    json.at("bucket_bytes").get_to(s.tuned.bucket_bytes);
    const auto& link = json.at("link");
    link.at("alpha").get_to(s.tuned.link.alpha);
    link.at("beta").get_to(s.tuned.link.beta);
    link.at("gamma").get_to(s.tuned.link.gamma);
    json.at("bucket_order").get_to(s.tuned.order);
    return s;
  } catch (const Json::exception& e) {
    fail<UsageError>("{}: state.json: {}", where, e.what());
  }
}

BestMetric::BestMetric(const std::string& name, const Task& task, bool several)
    : name_(!name.empty() ? name
            : several && task.main_metric() != "loss"
                ? "average"
                : std::string(task.main_metric())) {}

void BestMetric::judge(EvalRecord& record, RunState& state) const {
  const auto found = record.metrics.find(name_);
  if (found == record.metrics.end()) {
    std::string names;
    for (const auto& [name, value] : record.metrics) {
      names += (names.empty() ? "" : ", ") + name;
    }
    fail<UsageError>("train.metric: the task has no '{}'; choose one of: {}",
                     name_, names);
  }
  const double value = found->second;
  bool better = !std::isnan(value);
  if (better && state.best) {
    const double best = state.best->metrics.at(name_);
    better = name_ == "loss" ? value < best : value > best;
  }
  record.best = better;
  if (better) {
    state.best = record;
    state.stale = 0;
  } else {
    ++state.stale;
  }
}

}  // namespace thinwire
