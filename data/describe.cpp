#include "data/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "data/shard_folder.h"

namespace thinwire {
namespace {

constexpr std::int64_t kBlock = 4096;  // samples read at a time
constexpr std::size_t kMostLabels = 50;

std::int32_t percentile(const std::vector<std::int32_t>& sorted, double share) {
  const auto last = static_cast<double>(sorted.size() - 1);
  return sorted[static_cast<std::size_t>(std::lround(share * last))];
}

void lengths_table(std::vector<std::int32_t> lengths, std::string& out) {
  std::sort(lengths.begin(), lengths.end());
  const std::int64_t tokens =
      std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  fmt::format_to(
      std::back_inserter(out), "tokens     {} in all, {:.1f} a sample\n",
      tokens,
      static_cast<double>(tokens) / static_cast<double>(lengths.size()));
  fmt::format_to(
      std::back_inserter(out),
      "length     min {}, 10 % {}, median {}, 90 % {}, 99 % {}, max {}\n",
      lengths.front(), percentile(lengths, 0.10), percentile(lengths, 0.50),
      percentile(lengths, 0.90), percentile(lengths, 0.99), lengths.back());
}

void class_table(const ShardFolder& folder, std::string& out) {
  const ShardIndex& index = folder.index();
  std::vector<std::int64_t> count(static_cast<std::size_t>(index.labels));
  for (std::int64_t at = 0; at < index.samples; at += kBlock) {
    for (const Sample& s :
         folder.read(at, std::min(kBlock, index.samples - at))) {
      ++count[static_cast<std::size_t>(s.label)];
    }
  }
  for (std::size_t i = 0; i < std::min(count.size(), kMostLabels); ++i) {
    fmt::format_to(std::back_inserter(out),
                   "label      {:>4} {:<24} {:>10} {:5.1f} %\n", i,
                   index.label_names[i], count[i],
                   100.0 * static_cast<double>(count[i]) /
                       static_cast<double>(index.samples));
  }
  if (count.size() > kMostLabels) {
    fmt::format_to(std::back_inserter(out), "label      … and {} more\n",
                   count.size() - kMostLabels);
  }
}

void value_line(const ShardFolder& folder, std::string& out) {
  const std::int64_t n = folder.index().samples;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  double mean = 0, squares = 0, seen = 0;
  for (std::int64_t at = 0; at < n; at += kBlock) {
    for (const Sample& s : folder.read(at, std::min(kBlock, n - at))) {
      low = std::min(low, s.label);
      high = std::max(high, s.label);
      const double step = s.label - mean;  // Welford's running variance
      mean += step / ++seen;
      squares += step * (s.label - mean);
    }
  }
  fmt::format_to(std::back_inserter(out),
                 "label      min {:g}, mean {:g}, max {:g}, deviation {:g}\n",
                 low, mean, high, std::sqrt(squares / seen));
}

}  // namespace

std::string describe(const ShardFolder& folder) {
  const ShardIndex& index = folder.index();
  std::string out = fmt::format(
      "folder     {}\ntask       {}\nsamples    {}\nvocabulary {} tokens, "
      "tokenizer {}\nlongest    input {}, target {} tokens\n",
      folder.path(), index.task_kind, index.samples, index.vocab_size,
      index.tokenizer_sha256.substr(0, 12), index.max_input, index.max_target);
  if (index.samples == 0) return out;
  lengths_table(folder.lengths(), out);
  if (index.labels > 0) {
    class_table(folder, out);
  } else if (index.task_kind == "regress") {
    value_line(folder, out);
  }
  return out;
}

}  // namespace thinwire
