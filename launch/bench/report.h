// The figures of `thinwire bench comm`, for people and for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "launch/bench/comm_bench.h"

namespace thinwire {

// One backend's figures.
struct CommBenchResult {
  std::string backend;
  int ranks = 1;
  LinkModel link;  // as the ranks measured it
  std::vector<CommBenchRow> rows;
  std::vector<SlowdownRow> slowdown;
};

std::string format_result(const CommBenchResult& result);
nlohmann::ordered_json to_json(const CommBenchResult& result);

// Versions, processor, load, date: what a kept figure is worth nothing without.
nlohmann::ordered_json describe_machine();

}  // namespace thinwire
