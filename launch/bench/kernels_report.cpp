#include "launch/bench/kernels_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "launch/report.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

constexpr KernelKind kKinds[] = {KernelKind::kLinear, KernelKind::kEmbedding,
                                 KernelKind::kNorm, KernelKind::kBias};

const char* name_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::kLinear:
      return "linear";
    case KernelKind::kEmbedding:
      return "embedding";
    case KernelKind::kNorm:
      return "norm";
    case KernelKind::kBias:
      return "bias";
  }
  return "?";
}

std::string milliseconds(double seconds) {
  return fmt::format("{:.3f}", seconds * 1e3);
}

double share(const KernelRow& row) {
  return static_cast<double>(row.k) /
         std::max(1.0,
                  static_cast<double>(row.out) * static_cast<double>(row.in));
}

}  // namespace

KernelsSum sum_of(const std::vector<KernelRow>& rows, KernelKind kind) {
  KernelsSum out;
  for (const KernelRow& row : rows) {
    if (row.kind != kind) continue;
    const auto n = static_cast<double>(row.tensors);
    out.seconds += n * row.seconds;
    out.dense += n * row.dense;
    out.tensors += row.tensors;
    out.positions += row.tensors * row.k;
    if (row.k == 0) out.empty += row.tensors;
    if (row.seconds > out.worst * row.dense) {
      out.worst = row.seconds / row.dense;
      out.worst_name = row.name;
    }
  }
  return out;
}

std::string format_kernels(const KernelsResult& result) {
  std::vector<std::vector<std::string>> table{{"tensor", "n", "shape", "rows",
                                               "k", "density", "path", "ms",
                                               "dense ms", "ratio"}};
  std::size_t empty = 0;
  for (const KernelRow& row : result.rows) {
    if (row.k == 0) {
      ++empty;
      continue;
    }
    table.push_back({row.name, std::to_string(row.tensors),
                     fmt::format("{}x{}", row.out, row.in),
                     std::to_string(row.rows), with_commas(row.k),
                     fmt::format("{:.3f} %", 100 * share(row)), row.path,
                     milliseconds(row.seconds), milliseconds(row.dense),
                     fmt::format("{:.4f}", row.seconds / row.dense)});
  }
  std::string out = result.mask + "\n" + format_table(table);
  if (empty > 0) out += fmt::format("{} rows without a position\n", empty);
  for (const KernelKind kind : kKinds) {
    const KernelsSum sum = sum_of(result.rows, kind);
    if (sum.positions == 0) continue;
    out += fmt::format(
        "sum {}: {} tensors ({} empty), {} positions: {} ms of {} dense, ratio "
        "{:.4f}; worst {:.4f} ({})\n",
        name_of(kind), sum.tensors, sum.empty, with_commas(sum.positions),
        milliseconds(sum.seconds), milliseconds(sum.dense), sum.ratio(),
        sum.worst, sum.worst_name);
  }
  return out;
}

std::string format_roofline(const Roofline& r) {
  return fmt::format(
      "roofline: {:.1f} GFLOP/s (the best dense product here), copy {:.1f} "
      "GB/s\n",
      r.multiply_rate / 1e9, r.copy_rate / 1e9);
}

Json to_json(const KernelsResult& result) {
  Json rows = Json::array();
  for (const KernelRow& row : result.rows) {
    rows.push_back({{"name", row.name},
                    {"kind", name_of(row.kind)},
                    {"tensors", row.tensors},
                    {"out", row.out},
                    {"in", row.in},
                    {"rows", row.rows},
                    {"k", row.k},
                    {"path", row.path},
                    {"seconds", row.seconds},
                    {"dense_seconds", row.dense},
                    {"plan_seconds", row.plan},
                    {"error", row.error},
                    {"allowed", row.allowed},
                    {"each", row.each},
                    {"each_dense", row.each_dense}});
  }
  Json sums = Json::object();
  for (const KernelKind kind : kKinds) {
    const KernelsSum sum = sum_of(result.rows, kind);
    if (sum.tensors == 0) continue;
    sums[name_of(kind)] = {
        {"seconds", sum.seconds},       {"dense_seconds", sum.dense},
        {"ratio", sum.ratio()},         {"worst", sum.worst},
        {"worst_name", sum.worst_name}, {"positions", sum.positions},
        {"tensors", sum.tensors},       {"empty", sum.empty}};
  }
  return {{"mask", result.mask}, {"sums", sums}, {"rows", rows}};
}

Json to_json(const Roofline& r) {
  return {{"flop_per_second", r.multiply_rate},
          {"copy_bytes_per_second", r.copy_rate}};
}

}  // namespace thinwire
