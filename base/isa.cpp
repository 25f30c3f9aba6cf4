#include "base/isa.h"

#include <cstdlib>

#include "base/error.h"

namespace thinwire {
namespace {

Isa best_isa() {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return Isa::kAvx2;
  }
#endif
  return Isa::kPortable;
}

}  // namespace

std::string_view name_of(Isa isa) noexcept {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
  }
  return "?";
}

Isa choose_isa(std::string_view wanted, Isa best) {
  if (wanted.empty()) return best;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (wanted != name_of(isa)) continue;
    if (isa > best) {
      fail<UsageError>(
          "THINWIRE_ISA={}: this processor lacks it; '{}' is the best it runs",
          wanted, name_of(best));
    }
    return isa;
  }
  fail<UsageError>(
      "THINWIRE_ISA={}: unknown; choose one of: portable, avx2, avx512",
      wanted);
}

Isa isa() {
  static const Isa chosen = [] {
    const char* wanted = std::getenv("THINWIRE_ISA");
    return choose_isa(wanted == nullptr ? "" : wanted, best_isa());
  }();
  return chosen;
}

}  // namespace thinwire
