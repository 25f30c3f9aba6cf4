#include "ops/isa.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr int kNoChoice = -1;
std::atomic<int> chosen{kNoChoice};

Isa from_environment() {
  const std::vector<Isa> supported = supported_isas();
  const char* wanted = std::getenv("THINWIRE_ISA");
  if (wanted == nullptr || *wanted == '\0') return supported.back();
  std::vector<std::string> names;
  for (const Isa isa : supported) {
    if (std::string_view(wanted) == name(isa)) return isa;
    names.emplace_back(name(isa));
  }
  fail<UsageError>("THINWIRE_ISA is '{}'; this machine runs: {}", wanted,
                   fmt::join(names, ", "));
}

}  // namespace

const char* name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kPortable:
      break;
  }
  return "portable";
}

std::vector<Isa> supported_isas() {
  std::vector<Isa> out{Isa::kPortable};
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    out.push_back(Isa::kAvx2);
    if (__builtin_cpu_supports("avx512f")) out.push_back(Isa::kAvx512);
  }
#endif
  return out;
}

Isa current_isa() {
  if (const int isa = chosen; isa != kNoChoice) return static_cast<Isa>(isa);
  static const Isa best = from_environment();
  return best;
}

UseIsa::UseIsa(Isa isa) : before_(chosen.exchange(static_cast<int>(isa))) {}
UseIsa::~UseIsa() { chosen = before_; }

}  // namespace thinwire
