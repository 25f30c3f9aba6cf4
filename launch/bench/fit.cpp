#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "launch/bench/comm_bench.h"

namespace thinwire {

LineFit fit_line(const std::vector<double>& bytes,
                 const std::vector<double>& seconds) {
  THINWIRE_ASSERT(bytes.size() == seconds.size(), "{} and {}", bytes.size(),
                  seconds.size());
  // Minimises sum ((a + b x) / t - 1)^2: the normal equations with w = 1 / t^2.
  double w = 0, wx = 0, wxx = 0, wt = 0, wxt = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const double x = bytes[i], t = seconds[i], weight = 1 / (t * t);
    w += weight;
    wx += weight * x;
    wxx += weight * x * x;
    wt += weight * t;
    wxt += weight * x * t;
  }
  const double determinant = w * wxx - wx * wx;
  if (bytes.size() < 2 || !(determinant > 1e-12 * w * wxx)) {
    fail<UsageError>("a line needs two different sizes, got {}", bytes.size());
  }
  LineFit fit;
  fit.alpha = (wxx * wt - wx * wxt) / determinant;
  fit.beta = (w * wxt - wx * wt) / determinant;
  double squares = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const double relative = (fit.alpha + fit.beta * bytes[i]) / seconds[i] - 1;
    squares += relative * relative;
  }
  fit.residual = std::sqrt(squares / static_cast<double>(bytes.size()));
  return fit;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const auto last = static_cast<double>(values.size() - 1);
  const auto at =
      values.begin() + static_cast<std::ptrdiff_t>(std::lround(q * last));
  std::ranges::nth_element(values, at);
  return *at;
}

}  // namespace thinwire
