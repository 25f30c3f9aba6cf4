// Section search of a config.
#pragma once

#include <cstdint>

namespace thinwire {

struct SearchOptions {
  double budget = 0;       // numbers, or below 1 a share of the backbone's
  double lr = 0.1;         // of the gates
  double clip = 2;         // of their gradient; 0: off
  double temperature = 1;  // of the shifted sigmoid
  bool second_order = true;
  std::int64_t batch_size = 0;  // of the gates' examples, a rank; 0: as train's
};

}  // namespace thinwire
