// Tables that `inspect`, `list` and --check print.
#pragma once

#include <string>
#include <vector>

#include "launch/open_run.h"

namespace thinwire {

// Columns padded to their widest cell, numbers to the right.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

std::string with_commas(std::int64_t number);  // 22,713,216

// What would train and what each exchange would cost: declares the delta
// without scoring anything.
std::string describe_config(OpenRun& run);
std::string describe_delta(const Delta& delta,
                           const ExchangeOptions& options = {});
// model: without its backbone. delta: what will train, if that is known.
std::string describe_model(const Backbone& backbone, const OpenModel& model,
                           const Delta* delta = nullptr);

}  // namespace thinwire
