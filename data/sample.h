// What the loader hands out: samples of one rank's share of a global batch.
#pragma once

#include <cstdint>
#include <vector>

#include "base/sample.h"

namespace thinwire {

struct SampleBatch {
  std::vector<Sample> samples;       // this rank's share, in global order
  std::uint64_t first_position = 0;  // of the global batch, in samples consumed
  std::uint64_t epoch = 0;
};

}  // namespace thinwire
