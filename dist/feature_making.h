// Features of samples as records of a file, and how long they take.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/feature_file.h"
#include "models/backbone.h"
#include "tasks/task.h"

namespace thinwire {

// In passes of a bounded number of tokens, a function of backbone, network and
// samples alone. Throws what collating throws.
std::vector<FeatureRecord> make_records(Backbone& backbone, Task& task,
                                        std::span<const Sample> samples);

// Of all records of a file, from its disk: not from what the kernel still holds
// of it. Throws IoError.
double seconds_to_read(const std::string& path, std::int64_t records);

// Why these records had better be made anew than read, from the seconds of
// both; empty: reading is the faster.
std::string why_not_read(double reading, double making, std::int64_t records);

}  // namespace thinwire
