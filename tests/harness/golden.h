// Golden data: tensors that another implementation computed, read from
// tests/golden/, and the comparison with what was computed here.
#pragma once

#include <ATen/core/Tensor.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "models/safetensors.h"

namespace thinwire {

// Both sides compute in fp32 with sums in other orders. The error of a sum of
// n terms grows as sqrt(n) * 2^-24; the models here are at most 3 + 2 layers of
// sums of some 40 terms, forward and back: below 1e-6 each, some 20 deep.
inline constexpr double kGoldenTolerance = 2e-5;

inline std::string golden_path(const std::string& name) {
  return std::string(THINWIRE_SOURCE_DIR) + "/tests/golden/" + name;
}

// The norm of the difference relative to that of `expected` itself, so that no
// tensor hides behind a larger one. A tensor that is zero throughout must be so
// to 1e-7. Failures print the largest difference.
inline ::testing::AssertionResult golden_close(
    const std::string& name, const at::Tensor& actual,
    const at::Tensor& expected, double tolerance = kGoldenTolerance) {
  if (!actual.defined()) {
    return ::testing::AssertionFailure() << name << ": undefined";
  }
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure() << name << ": shape " << actual.sizes()
                                       << ", expected " << expected.sizes();
  }
  const at::Tensor want = expected.to(at::kDouble);
  const at::Tensor difference =
      actual.detach().to(at::kDouble).sub(want).abs().flatten();
  const double norm = want.norm().item<double>();
  const double error = difference.norm().item<double>();
  const bool zero = norm < 1e-7;
  if (zero ? error < 1e-7 : error <= tolerance * norm) {
    return ::testing::AssertionSuccess();
  }
  const auto at = difference.argmax().item<std::int64_t>();
  return ::testing::AssertionFailure() << fmt::format(
             "{}: |difference| / |expected| = {:.3g} (allowed {:.3g}); largest "
             "difference at {}: {:.9g}, expected {:.9g}",
             name, zero ? error : error / norm, tolerance, at,
             actual.detach().flatten()[at].item<double>(),
             want.flatten()[at].item<double>());
}

}  // namespace thinwire
