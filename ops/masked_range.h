// Which numbers of a flat fp32 vector go where in a frozen weight.
#pragma once

#include <cstdint>

namespace thinwire {

// Numbers [begin, begin + count) of the vector are those of `weight` at
// `index`. Looks only: weight and index live elsewhere.
struct MaskedWrite {
  std::int64_t begin = 0, count = 0;
  const void* index = nullptr;  // [count] flat positions, sorted
  bool wide = false;            // int64, else int32
  void* weight = nullptr;
  bool bf16 = false;  // else fp32
};

}  // namespace thinwire
