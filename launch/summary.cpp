#include "launch/summary.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "launch/cause.h"
#include "launch/metrics_log.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

std::string_view stop_name(TrainSummary::Stop stop) {
  switch (stop) {
    case TrainSummary::Stop::kDone:
      return "done";
    case TrainSummary::Stop::kEarly:
      return "early_stop";
    case TrainSummary::Stop::kSignal:
      return "checkpointed";
  }
  return "";
}

std::int64_t peak_before_reset = 0;

Json eval_json(const EvalRecord& record) {
  Json json = record.metrics;
  json["step"] = record.step;
  return json;
}

}  // namespace

std::int64_t peak_rss_bytes() {
  return std::max(peak_before_reset, peak_rss_bytes_since_reset());
}

void reset_peak_rss() {
  peak_before_reset = peak_rss_bytes();
  std::ofstream("/proc/self/clear_refs") << "5";
}

std::int64_t peak_rss_bytes_since_reset() {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("VmHWM:")) continue;
    std::istringstream numbers(line.substr(6));
    std::int64_t kib = 0;
    numbers >> kib;
    return kib * 1024;
  }
  return 0;
}

Json summary_json(const TrainSummary& s) {
  Json json = {{"event", "summary"},
               {"status", stop_name(s.stop)},
               {"steps", s.steps},
               {"trainable_parameters", s.trainable_parameters},
               {"head_parameters", s.head_parameters},
               {"total_parameters", s.total_parameters},
               {"delta_bytes", s.delta_bytes},
               {"payload_bytes_per_step", s.payload_bytes_per_step},
               {"predicted_sent_bytes_per_step", nullptr},
               {"sent_bytes", s.sent_bytes},
               {"skipped_steps", s.skipped_steps},
               {"peak_rss_bytes", peak_rss_bytes()},
               {"measured",
                {{"peak_tensor_bytes", s.peak_tensor_bytes},
                 {"peak_process_bytes", peak_rss_bytes_since_reset()}}},
               {"peak_device_bytes", 0},
               {"seconds_to_first_step", s.seconds_to_first_step},
               {"seconds", s.seconds},
               {"ranks", s.ranks},
               {"delta_hash", s.delta_hash.hex()},
               {"backbone", s.backbone.hex()}};
  if (const auto bytes = s.predicted_sent_bytes_per_step) {
    json["predicted_sent_bytes_per_step"] = *bytes;
  }
  if (s.first) json["first"] = eval_json(*s.first);
  if (s.best) json["best"] = eval_json(*s.best);
  json["final"] = s.last ? eval_json(*s.last) : Json::object();
  return json;
}

Json failure_json(const std::exception& error) {
  const std::string text = error.what();
  return {{"event", "summary"},
          {"status", "failed"},
          {"cause", cause_of(error)},
          {"error", text.substr(0, text.find('\n'))}};
}

}  // namespace thinwire
