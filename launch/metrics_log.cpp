#include "launch/metrics_log.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

std::string lines_up_to(const std::string& path, std::int64_t step) {
  std::ifstream file(path, std::ios::binary);
  std::string kept, line;
  while (std::getline(file, line)) {
    const Json json = Json::parse(line, nullptr, false);
    if (!json.is_object()) continue;
    const auto at = json.find("step");
    if (at != json.end() && at->is_number() &&
        at->get<std::int64_t>() <= step) {
      kept += line + "\n";
    }
  }
  return kept;
}

}  // namespace

MetricsLog::MetricsLog(const std::string& folder, std::int64_t step) {
  const std::string path =
      (std::filesystem::path(folder) / "metrics.jsonl").string();
  const std::string kept = step > 0 ? lines_up_to(path, step) : "";
  const std::string temporary = path + ".tmp";
  file_.reset(std::fopen(temporary.c_str(), "wb"));
  if (file_ == nullptr ||
      std::fwrite(kept.data(), 1, kept.size(), file_.get()) != kept.size() ||
      std::fflush(file_.get()) != 0 ||
      std::rename(temporary.c_str(), path.c_str()) != 0) {
    fail<IoError>("{}: cannot write: {}", path, std::strerror(errno));
  }
}

bool MetricsLog::write(const Json& line) {
  const std::string text = line.dump() + "\n";
  return std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() &&
         std::fflush(file_.get()) == 0;
}

Json to_json(const StepRecord& r) {
  Json json = {{"event", "step"},
               {"step", r.step},
               {"loss", r.loss},
               {"lr", r.lr},
               {"grad_norm", r.grad_norm},
               {"samples", r.samples},
               {"tokens", r.tokens},
               {"step_ms", r.step_ms},
               {"data_ms", r.data_ms},
               {"forward_ms", r.forward_ms},
               {"backward_ms", r.backward_ms},
               {"comm_ms", r.comm_ms},
               {"comm_exposed_ms", r.comm_exposed_ms},
               {"optimizer_ms", r.optimizer_ms},
               {"sent_bytes", r.sent_bytes},
               {"received_bytes", r.received_bytes},
               {"peak_tensor_bytes", r.peak_tensor_bytes}};
  if (r.penalty != 0) json["penalty"] = r.penalty;
  if (r.skipped) json["skipped"] = true;
  return json;
}

Json to_json(const EvalRecord& r) {
  Json json = {{"event", "eval"}, {"step", r.step}, {"split", r.split}};
  if (!r.task.empty()) json["task"] = r.task;
  json["metrics"] = r.metrics;
  json["samples"] = r.samples;
  json["seconds"] = r.seconds;
  json["best"] = r.best;
  return json;
}

}  // namespace thinwire
