#include "ops/optimizer_pass.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "ops/adafactor_pass.h"

namespace thinwire {
namespace {

using Vector = std::vector<float>;

Vector random(const char* name, std::size_t n) {
  Vector out(n);
  fill_normal(out.data(), static_cast<std::int64_t>(n), 1, name, 1.0f);
  return out;
}

double relative(double got, double want) {
  return std::abs(got - want) / std::max(std::abs(want), 1e-3);
}

// The published algorithm in double precision.
TEST(Adamw, FollowsTheFormula) {
  constexpr std::size_t n = 1003;
  for (const bool towards : {false, true}) {
    Vector x = random("x", n), m(n), v(n);
    const Vector target = random("t", n);
    std::vector<double> dx(x.begin(), x.end()), dm(n), dv(n);
    std::vector<double> scale(n);  // of m: its terms may cancel
    for (std::int64_t step = 1; step <= 5; ++step) {
      const Vector g = random(("g" + std::to_string(step)).c_str(), n);
      const AdamwStep s{.lr = 0.01,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .epsilon = 1e-8,
                        .weight_decay = 0.1,
                        .step = step,
                        .grad_scale = 0.25};
      adamw_pass(x.data(), g.data(), m.data(), v.data(),
                 towards ? target.data() : nullptr, n, s);
      for (std::size_t i = 0; i < n; ++i) {
        const double grad = 0.25 * g[i];
        const double from = towards ? target[i] : 0;
        dm[i] = 0.9 * dm[i] + 0.1 * grad;
        scale[i] = 0.9 * scale[i] + 0.1 * std::abs(grad);
        dv[i] = 0.999 * dv[i] + 0.001 * grad * grad;
        const double m_hat = dm[i] / (1 - std::pow(0.9, step));
        const double v_hat = dv[i] / (1 - std::pow(0.999, step));
        dx[i] -=
            0.01 * (m_hat / (std::sqrt(v_hat) + 1e-8) + 0.1 * (dx[i] - from));
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      // fp32 rounding of five updates of size 0.01.
      EXPECT_NEAR(x[i], dx[i], 1e-6 * std::max(1.0, std::abs(dx[i])));
      EXPECT_NEAR(m[i], dm[i], 1e-6 * scale[i]);
      EXPECT_LT(relative(v[i], dv[i]), 5e-6);
    }
  }
}

// With corrections beside every number: the same where all are of one age, and
// a number that comes late is as one whose first step this is.
TEST(Adamw, ByAgeEqualsTheCommonCount) {
  constexpr std::size_t n = 1003;
  constexpr std::int64_t late = 4;  // the step before which odd ones begin
  Vector x = random("x", n), m(n), v(n), c1(n), c2(n);
  Vector even = x, even_m(n), even_v(n), odd = x, odd_m(n), odd_v(n);
  const Vector target = random("t", n);
  for (std::int64_t step = 1; step <= 7; ++step) {
    const Vector g = random(("g" + std::to_string(step)).c_str(), n);
    AdamwStep s{.lr = 0.01,
                .beta1 = 0.9,
                .beta2 = 0.999,
                .epsilon = 1e-8,
                .weight_decay = 0.1,
                .step = step,
                .grad_scale = 0.25};
    if (step == late) {
      for (std::size_t i = 1; i < n; i += 2) {
        x[i] = odd[i];
        m[i] = v[i] = c1[i] = c2[i] = 0;
      }
    }
    adamw_pass_by_age(x.data(), g.data(), m.data(), v.data(), c1.data(),
                      c2.data(), target.data(), n, s);
    adamw_pass(even.data(), g.data(), even_m.data(), even_v.data(),
               target.data(), n, s);
    if (step < late) continue;
    s.step = step - late + 1;
    adamw_pass(odd.data(), g.data(), odd_m.data(), odd_v.data(), target.data(),
               n, s);
  }
  for (std::size_t i = 0; i < n; ++i) {
    const float want = i % 2 == 0 ? even[i] : odd[i];
    EXPECT_NEAR(x[i], want, 1e-6 * std::max(1.0f, std::abs(want))) << i;
  }
}

// Three steps of torch.optim.AdamW(lr=0.1, betas=(0.8, 0.95), eps=1e-6,
// weight_decay=0.2) from x = [1, -2, 0.5, 0] with gradients
// [0.1, -1, 10, 1e-4] * step.
TEST(Adamw, EqualsTorchOptim) {
  Vector x{1.0f, -2.0f, 0.5f, 0.0f}, m(4), v(4);
  for (std::int64_t step = 1; step <= 3; ++step) {
    const auto f = static_cast<float>(step);
    const Vector g{0.1f * f, -1.0f * f, 10.0f * f, 1e-4f * f};
    adamw_pass(x.data(), g.data(), m.data(), v.data(), nullptr, 4,
               {.lr = 0.1,
                .beta1 = 0.8,
                .beta2 = 0.95,
                .epsilon = 1e-6,
                .weight_decay = 0.2,
                .step = step,
                .grad_scale = 1});
  }
  const double want[4] = {0.651489139, -1.59267926, 0.180891097, -0.287712276};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(x[i], want[i], 2e-7);
}

TEST(Sgd, FollowsTheFormula) {
  constexpr std::size_t n = 517;
  for (const double momentum : {0.0, 0.9}) {
    for (const bool nesterov : {false, true}) {
      Vector x = random("x", n), velocity(n);
      const Vector target = random("t", n);
      std::vector<double> dx(x.begin(), x.end()), dv(n);
      for (int step = 0; step < 4; ++step) {
        const Vector g = random(("g" + std::to_string(step)).c_str(), n);
        sgd_pass(x.data(), g.data(), momentum == 0 ? nullptr : velocity.data(),
                 step % 2 == 0 ? target.data() : nullptr, n,
                 {.lr = 0.1,
                  .momentum = momentum,
                  .weight_decay = 0.01,
                  .grad_scale = 0.5,
                  .nesterov = nesterov});
        for (std::size_t i = 0; i < n; ++i) {
          const double from = step % 2 == 0 ? target[i] : 0;
          const double grad = 0.5 * g[i] + 0.01 * (dx[i] - from);
          dv[i] = momentum * dv[i] + grad;
          const double move =
              momentum != 0 && nesterov ? grad + momentum * dv[i] : dv[i];
          dx[i] -= 0.1 * move;
        }
      }
      for (std::size_t i = 0; i < n; ++i) {
        EXPECT_NEAR(x[i], dx[i], 1e-6 * std::max(1.0, std::abs(dx[i])));
      }
    }
  }
}

TEST(Lion, FollowsTheFormula) {
  constexpr std::size_t n = 1003;
  Vector x = random("x", n), m(n);
  const Vector target = random("t", n);
  std::vector<double> dx(x.begin(), x.end()), dm(n);
  for (int step = 0; step < 6; ++step) {
    Vector g = random(("g" + std::to_string(step)).c_str(), n);
    g[5] = 0;  // does not move
    lion_pass(x.data(), g.data(), m.data(),
              step % 2 == 0 ? target.data() : nullptr, n,
              {.lr = 0.01,
               .beta1 = 0.9,
               .beta2 = 0.99,
               .weight_decay = 0.1,
               .grad_scale = 0.25});
    for (std::size_t i = 0; i < n; ++i) {
      const double grad = 0.25 * g[i];
      const double from = step % 2 == 0 ? target[i] : 0;
      const double c = 0.9 * dm[i] + 0.1 * grad;
      dx[i] -= 0.01 * ((c > 0) - (c < 0) + 0.1 * (dx[i] - from));
      dm[i] = 0.99 * dm[i] + 0.01 * grad;
    }
  }
  for (std::size_t i = 0; i < n; ++i) {
    EXPECT_NEAR(x[i], dx[i], 1e-6 * std::max(1.0, std::abs(dx[i]))) << i;
    EXPECT_NEAR(m[i], dm[i], 1e-8);
  }
}

// Every optimizer writes what it made into the weights, and the same numbers as
// without them; threads change nothing.
TEST(Passes, WriteIntoWeightsAndAreTheSameForEveryThreadCount) {
  constexpr std::int64_t n = 200'003, begin = 1001, count = 150'000;
  constexpr auto size = static_cast<std::size_t>(n);
  const at::Tensor index = at::arange(0, 3 * count, 3, at::kInt);
  const Vector x = random("x", size), g = random("g", size);
  using Pass =
      std::function<void(float*, float*, float*, std::span<const MaskedWrite>)>;
  const AdamwStep adamw{0.01, 0.9, 0.999, 1e-8, 0.1, 3, 0.5};
  Vector c1(size, 0.2f), c2(size, 0.1f);
  const std::vector<Pass> passes = {
      [&](float* v, float* a, float* b, auto w) {
        adamw_pass(v, g.data(), a, b, nullptr, n, adamw, w);
      },
      [&](float* v, float* a, float* b, auto w) {
        Vector d1 = c1, d2 = c2;
        adamw_pass_by_age(v, g.data(), a, b, d1.data(), d2.data(), x.data(), n,
                          adamw, w);
      },
      [&](float* v, float* a, float*, auto w) {
        sgd_pass(v, g.data(), a, nullptr, n, {0.1, 0.9, 0.01, 0.5, true}, w);
      },
      [&](float* v, float* a, float*, auto w) {
        lion_pass(v, g.data(), a, nullptr, n, {0.1, 0.9, 0.99, 0.01, 0.5}, w);
      },
      [&](float* v, float* a, float* b, auto w) {
        adafactor_pass(v, g.data(), a, b, nullptr, nullptr, n,
                       {.lr = 0.1,
                        .beta1 = 0.9,
                        .clip_threshold = 0.5,
                        .decay_rate = -0.8,
                        .epsilon1 = 1e-30,
                        .epsilon2 = 1e-3,
                        .weight_decay = 0.1,
                        .scale_parameter = true,
                        .step = 2,
                        .grad_scale = 0.5},
                       w);
      }};
  for (std::size_t p = 0; p < passes.size(); ++p) {
    Vector plain = x, a(size), b(size, 0.5f);
    passes[p](plain.data(), a.data(), b.data(), {});
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const int threads : {1, 3}) {
        at::set_num_threads(threads);
        at::Tensor weight = at::zeros({3 * count}, type);
        const MaskedWrite writes[] = {masked_write(weight, index, begin)};
        Vector fused = x, fused_a(size), fused_b(size, 0.5f);
        passes[p](fused.data(), fused_a.data(), fused_b.data(), writes);
        EXPECT_EQ(fused, plain) << p;
        EXPECT_EQ(fused_a, a) << p;
        EXPECT_EQ(fused_b, b) << p;
        at::Tensor made = at::empty({count});
        std::copy_n(fused.data() + begin, count, made.data_ptr<float>());
        EXPECT_TRUE(weight.equal(
            at::zeros({3 * count}, type)
                .index_copy(0, index.to(at::kLong), made.to(type))))
            << p;
      }
    }
  }
  at::set_num_threads(1);
}

TEST(SumOfSquares, ExactOnIntegers) {
  Vector x(20011);
  double want = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 101) - 50;
    want += static_cast<double>(x[i]) * x[i];
  }
  EXPECT_EQ(sum_of_squares(x.data(), static_cast<std::int64_t>(x.size())),
            want);
  EXPECT_EQ(sum_of_squares(x.data(), 0), 0);
  EXPECT_EQ(sum_of_squares(x.data(), 3), 2500 + 2401 + 2304);
}

TEST(SumOfSquares, IsTheFixedSumOfBlocks) {
  const Vector x = random("x", 4096 * 5 + 17);
  double want = 0;
  for (std::size_t i = 0; i < x.size(); i += 4096) {
    want += sum_of_squares(
        x.data() + i,
        static_cast<std::int64_t>(std::min<std::size_t>(4096, x.size() - i)));
  }
  EXPECT_EQ(sum_of_squares(x.data(), static_cast<std::int64_t>(x.size())),
            want);
}

TEST(AllFinite, FindsOneAnywhere) {
  Vector x = random("x", 9001);
  const auto n = static_cast<std::int64_t>(x.size());
  EXPECT_TRUE(all_finite(x.data(), n));
  EXPECT_TRUE(all_finite(x.data(), 0));
  for (const std::size_t at : {0, 5000, 9000}) {
    for (const float bad : {NAN, INFINITY, -INFINITY}) {
      const float good = x[at];
      x[at] = bad;
      EXPECT_FALSE(all_finite(x.data(), n)) << at << " " << bad;
      x[at] = good;
    }
  }
  x[3] = std::numeric_limits<float>::max();
  EXPECT_TRUE(all_finite(x.data(), n));
}

}  // namespace
}  // namespace thinwire
