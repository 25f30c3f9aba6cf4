// Version of the program.
#pragma once

#include <string>

namespace thinwire {

inline constexpr const char* kVersion = "0.1.0";

inline std::string version_text() {
  return std::string("thinwire ") + kVersion;
}

}  // namespace thinwire
