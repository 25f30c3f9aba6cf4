// summary.json and the last line of metrics.jsonl.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "dist/trainer.h"

namespace thinwire {

nlohmann::ordered_json summary_json(const TrainSummary& summary);

// Of a run that threw `error`: its cause by name (docs/errors.md) and text.
nlohmann::ordered_json failure_json(const std::exception& error);

// Of this process, from /proc: since it began, and since reset_peak_rss(),
// which where the kernel does not allow it changes nothing.
std::int64_t peak_rss_bytes();
std::int64_t peak_rss_bytes_since_reset();
void reset_peak_rss();

}  // namespace thinwire
