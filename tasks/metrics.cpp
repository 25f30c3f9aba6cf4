#include "tasks/metrics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <map>
#include <numeric>
#include <set>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

void check(std::span<const double> a, std::span<const double> b) {
  THINWIRE_ASSERT(a.size() == b.size() && !a.empty(), "{} and {} values",
                  a.size(), b.size());
}

bool all_finite(std::span<const double> x) {
  return std::all_of(x.begin(), x.end(),
                     [](double value) { return std::isfinite(value); });
}

double mean(std::span<const double> x) {
  return std::accumulate(x.begin(), x.end(), 0.0) /
         static_cast<double>(x.size());
}

// Ranks from 1; ties share the mean of theirs.
std::vector<double> ranks(std::span<const double> x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
  std::vector<double> out(x.size());
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin + 1;
    while (end < order.size() && x[order[end]] == x[order[begin]]) ++end;
    const double rank = static_cast<double>(begin + 1 + end) / 2;
    for (std::size_t i = begin; i < end; ++i) out[order[i]] = rank;
    begin = end;
  }
  return out;
}

}  // namespace

double accuracy(std::span<const double> predictions,
                std::span<const double> labels) {
  check(predictions, labels);
  std::size_t right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    right += predictions[i] == labels[i] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(labels.size());
}

double f1_of_class(std::span<const double> predictions,
                   std::span<const double> labels, double positive) {
  check(predictions, labels);
  double both = 0, predicted = 0, there = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const bool p = predictions[i] == positive, l = labels[i] == positive;
    both += p && l ? 1 : 0;
    predicted += p ? 1 : 0;
    there += l ? 1 : 0;
  }
  return predicted + there == 0 ? 0 : 2 * both / (predicted + there);
}

double f1_macro(std::span<const double> predictions,
                std::span<const double> labels) {
  check(predictions, labels);
  std::set<double> classes(labels.begin(), labels.end());
  classes.insert(predictions.begin(), predictions.end());
  double sum = 0;
  for (const double c : classes) sum += f1_of_class(predictions, labels, c);
  return sum / static_cast<double>(classes.size());
}

double matthews(std::span<const double> predictions,
                std::span<const double> labels) {
  check(predictions, labels);
  struct Counts {
    double predicted = 0, there = 0;
  };
  std::map<double, Counts> classes;
  double right = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    ++classes[predictions[i]].predicted;
    ++classes[labels[i]].there;
    right += predictions[i] == labels[i] ? 1 : 0;
  }
  const double n = static_cast<double>(labels.size());
  double cross = 0, predicted_square = 0, there_square = 0;
  for (const auto& [c, counts] : classes) {
    cross += counts.predicted * counts.there;
    predicted_square += counts.predicted * counts.predicted;
    there_square += counts.there * counts.there;
  }
  const double spread =
      std::sqrt(n * n - predicted_square) * std::sqrt(n * n - there_square);
  return spread == 0 ? 0 : (right * n - cross) / spread;
}

double pearson(std::span<const double> x, std::span<const double> y) {
  check(x, y);
  if (!all_finite(x) || !all_finite(y)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  // A mean is rounded, so equal values may seem to scatter around theirs.
  const auto constant = [](std::span<const double> v) {
    return std::all_of(v.begin(), v.end(),
                       [&](double value) { return value == v.front(); });
  };
  if (constant(x) || constant(y)) return 0;
  const double mx = mean(x), my = mean(y);
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mx) * (x[i] - mx);
    yy += (y[i] - my) * (y[i] - my);
    xy += (x[i] - mx) * (y[i] - my);
  }
  const double spread = std::sqrt(xx) * std::sqrt(yy);
  return spread == 0 ? 0 : std::clamp(xy / spread, -1.0, 1.0);
}

double spearman(std::span<const double> x, std::span<const double> y) {
  check(x, y);
  if (!all_finite(x) || !all_finite(y)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return pearson(ranks(x), ranks(y));
}

}  // namespace thinwire
