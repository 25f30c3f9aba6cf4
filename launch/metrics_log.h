// metrics.jsonl of a run folder: one object a line, with `event`.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "dist/trainer.h"

namespace thinwire {

class MetricsLog {
 public:
  // Keeps the lines up to `step` of a log that is there already (a resumed run
  // repeats what came after), drops a torn last line. Throws IoError.
  MetricsLog(const std::string& folder, std::int64_t step);
  // Flushed at once. False when it could not be written (a full disk).
  bool write(const nlohmann::ordered_json& line);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::unique_ptr<std::FILE, Close> file_;
};

nlohmann::ordered_json to_json(const StepRecord& record);
nlohmann::ordered_json to_json(const EvalRecord& record);

}  // namespace thinwire
