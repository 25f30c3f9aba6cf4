// Why a run failed, by name (docs/errors.md).
#pragma once

#include <exception>
#include <string_view>

namespace thinwire {

// USAGE, IO, RANK_LOST, LAUNCHER_LOST, STALLED, PARTITIONED, DESYNC,
// DISAGREEMENT, COMM, NON_FINITE, OUT_OF_MEMORY, INTERNAL or RUN.
std::string_view cause_of(const std::exception& error);

}  // namespace thinwire
