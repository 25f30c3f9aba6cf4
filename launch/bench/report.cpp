#include "launch/bench/report.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <torch/version.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <map>
#include <thread>
#include <tuple>

#include "launch/report.h"
#include "launch/version.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;
using Key = std::tuple<BenchPath, Algorithm, Codec>;

Key key_of(const BenchCase& c) { return {c.path, c.algorithm, c.codec}; }

bool own(const BenchCase& c) { return c.path != BenchPath::kMpi; }

std::vector<std::string> cells(const BenchCase& c) {
  if (!own(c)) return {"mpi", "-", "fp32"};
  return {std::string(name_of(c.path)), std::string(name_of(c.algorithm)),
          std::string(name_of(c.codec))};
}

Json json_of(const BenchCase& c) {
  const auto text = cells(c);
  return {{"path", text[0]}, {"algorithm", text[1]}, {"codec", text[2]}};
}

std::int64_t most_sent(const CommBenchRow& row) {
  std::int64_t most = 0;
  for (const ByteCount& b : row.per_rank) most = std::max(most, b.sent);
  return most;
}

// Payload over time, GB/s.
double algbw(const CommBenchRow& row) {
  return row.p50 > 0 ? static_cast<double>(row.bytes) / row.p50 / 1e9 : 0;
}

// What the busiest link must have carried for that, whatever the algorithm.
double busbw(const CommBenchRow& row, int ranks) {
  return algbw(row) * 2 * (ranks - 1) / ranks;
}

std::string micros(double seconds) {
  return seconds == 0 ? "-" : fmt::format("{:.1f}", seconds * 1e6);
}

struct Fit {
  BenchCase what;
  LineFit line;
};

// A line through each case's medians; none for cases with one size.
std::vector<Fit> fits_of(const CommBenchResult& result) {
  std::vector<Key> order;
  std::map<Key, std::pair<std::vector<double>, std::vector<double>>> points;
  std::map<Key, BenchCase> cases;
  for (const CommBenchRow& row : result.rows) {
    if (row.p50 == 0) continue;
    const Key key = key_of(row.what);
    if (cases.emplace(key, row.what).second) order.push_back(key);
    points[key].first.push_back(static_cast<double>(row.bytes));
    points[key].second.push_back(row.p50);
  }
  std::vector<Fit> fits;
  for (const Key& key : order) {
    const auto& [bytes, seconds] = points[key];
    if (std::ranges::min(bytes) == std::ranges::max(bytes)) continue;
    fits.push_back({cases[key], fit_line(bytes, seconds)});
  }
  return fits;
}

std::string rows_table(const CommBenchResult& result) {
  std::vector<std::vector<std::string>> table{
      {"path", "algorithm", "codec", "bytes", "sent", "p50 µs", "p95 µs",
       "min µs", "algbw GB/s", "busbw GB/s", "calls", "error"}};
  for (const CommBenchRow& row : result.rows) {
    auto line = cells(row.what);
    const bool timed = row.p50 > 0;
    for (const std::string& cell :
         {fmt::format("{}", row.bytes),
          own(row.what) ? fmt::format("{}", most_sent(row)) : "-",
          micros(row.p50), micros(row.p95), micros(row.least),
          timed ? fmt::format("{:.4f}", algbw(row)) : "-",
          timed ? fmt::format("{:.4f}", busbw(row, result.ranks)) : "-",
          fmt::format("{}", row.calls), fmt::format("{:.2g}", row.error)}) {
      line.push_back(cell);
    }
    table.push_back(line);
  }
  return format_table(table);
}

std::string fits_table(const std::vector<Fit>& fits) {
  std::vector<std::vector<std::string>> table{{"path", "algorithm", "codec",
                                               "alpha µs", "beta ns/B",
                                               "1/beta GB/s", "residual %"}};
  for (const Fit& fit : fits) {
    auto line = cells(fit.what);
    line.push_back(fmt::format("{:.1f}", fit.line.alpha * 1e6));
    line.push_back(fmt::format("{:.4f}", fit.line.beta * 1e9));
    line.push_back(fmt::format("{:.3f}", 1e-9 / fit.line.beta));
    line.push_back(fmt::format("{:.1f}", fit.line.residual * 100));
    table.push_back(line);
  }
  return format_table(table);
}

std::string slowdown_table(const std::vector<SlowdownRow>& rows) {
  std::vector<std::vector<std::string>> table{
      {"path", "algorithm", "codec", "bytes", "alone ms", "beside ms",
       "slowed %", "in flight %", "exposed ms"}};
  for (const SlowdownRow& row : rows) {
    auto line = cells(row.what);
    for (const std::string& cell :
         {fmt::format("{}", row.bytes), fmt::format("{:.2f}", row.alone * 1e3),
          fmt::format("{:.2f}", row.beside * 1e3),
          fmt::format("{:.2f}", row.slowed * 100),
          fmt::format("{:.0f}", row.covered * 100),
          fmt::format("{:.2f}", row.exposed * 1e3)}) {
      line.push_back(cell);
    }
    table.push_back(line);
  }
  return format_table(table);
}

}  // namespace

std::string format_result(const CommBenchResult& result) {
  std::string text =
      fmt::format("backend {}, {} ranks", result.backend, result.ranks);
  if (result.link.beta > 0) {
    text += fmt::format(", link of {:.1f} µs and {:.3f} GB/s",
                        result.link.alpha * 1e6, 1e-9 / result.link.beta);
  }
  text += "; every answer checked\n";
  if (!result.rows.empty()) text += rows_table(result);
  const auto fits = fits_of(result);
  if (!fits.empty()) {
    text += "\np50 = alpha + beta * bytes\n" + fits_table(fits);
  }
  if (!result.slowdown.empty()) {
    text += "\ncompute beside an exchange in flight\n" +
            slowdown_table(result.slowdown);
  }
  return text;
}

Json to_json(const CommBenchResult& result) {
  Json out{{"backend", result.backend}, {"ranks", result.ranks}};
  out["link"] = {{"alpha_s", result.link.alpha},
                 {"beta_s_per_byte", result.link.beta},
                 {"gamma_s_per_byte", result.link.gamma}};
  out["rows"] = Json::array();
  for (const CommBenchRow& row : result.rows) {
    Json line = json_of(row.what);
    line["bytes"] = row.bytes;
    line["sent_bytes"] = Json::array();
    line["received_bytes"] = Json::array();
    for (const ByteCount& b : row.per_rank) {
      line["sent_bytes"].push_back(b.sent);
      line["received_bytes"].push_back(b.received);
    }
    line["error"] = row.error;
    line["allowed_error"] = row.allowed;
    line["calls"] = row.calls;
    if (row.p50 > 0) {
      line["p50_s"] = row.p50;
      line["p95_s"] = row.p95;
      line["min_s"] = row.least;
      line["round_p50_s"] = row.round_p50;
      line["algbw_gb_s"] = algbw(row);
      line["busbw_gb_s"] = busbw(row, result.ranks);
    }
    out["rows"].push_back(line);
  }
  out["fits"] = Json::array();
  for (const Fit& fit : fits_of(result)) {
    Json line = json_of(fit.what);
    line["alpha_s"] = fit.line.alpha;
    line["beta_s_per_byte"] = fit.line.beta;
    line["residual"] = fit.line.residual;
    out["fits"].push_back(line);
  }
  out["slowdown"] = Json::array();
  for (const SlowdownRow& row : result.slowdown) {
    Json line = json_of(row.what);
    line["bytes"] = row.bytes;
    line["alone_s"] = row.alone;
    line["beside_s"] = row.beside;
    line["slowed"] = row.slowed;
    line["in_flight"] = row.covered;
    line["exposed_s"] = row.exposed;
    out["slowdown"].push_back(line);
  }
  return out;
}

Json describe_machine() {
  std::string cpu = "unknown";
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (!line.starts_with("model name") || colon == std::string::npos) continue;
    cpu = line.substr(colon + 2);
    break;
  }
  double load = 0;
  if (getloadavg(&load, 1) != 1) load = -1;
  return {{"thinwire", kVersion},
          {"libtorch", TORCH_VERSION},
          {"compiler", __VERSION__},
          {"cpu", cpu},
          {"cores", std::thread::hardware_concurrency()},
          {"load", load},
          {"date", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                               fmt::gmtime(std::time(nullptr)))}};
}

}  // namespace thinwire
