// Which instruction set the hand-written kernels use.
#pragma once

#include <vector>

namespace thinwire {

enum class Isa { kPortable, kAvx2, kAvx512 };

const char* name(Isa isa);
// What this processor and build run, kPortable first.
std::vector<Isa> supported_isas();
// The best of them, or the one that the environment variable THINWIRE_ISA
// (portable, avx2 or avx512) names; UsageError where that is not among them.
Isa current_isa();

// Kernels called while this lives use `isa`. For tests.
class UseIsa {
 public:
  explicit UseIsa(Isa isa);
  ~UseIsa();
  UseIsa(const UseIsa&) = delete;
  UseIsa& operator=(const UseIsa&) = delete;

 private:
  int before_;
};

}  // namespace thinwire
