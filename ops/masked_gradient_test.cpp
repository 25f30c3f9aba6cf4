#include "ops/masked_gradient.h"

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>

#include "base/error.h"
#include "ops/test_tensors.h"

namespace thinwire {
namespace {

using test::largest_difference;
using test::normal;
using testing::HasSubstr;

at::Tensor index_of(const std::vector<std::int64_t>& positions) {
  at::Tensor out = at::empty({static_cast<std::int64_t>(positions.size())},
                             at::TensorOptions().dtype(at::kLong));
  std::ranges::copy(positions, out.mutable_data_ptr<std::int64_t>());
  return out;
}

// Positions of a weight where wanted(row, column).
at::Tensor index_where(
    std::int64_t out, std::int64_t in,
    const std::function<bool(std::int64_t, std::int64_t)>& wanted) {
  std::vector<std::int64_t> positions;
  for (std::int64_t r = 0; r < out; ++r) {
    for (std::int64_t c = 0; c < in; ++c) {
      if (wanted(r, c)) positions.push_back(r * in + c);
    }
  }
  return index_of(positions);
}

// Each position with this probability, in per mille.
at::Tensor uniform(std::int64_t out, std::int64_t in, std::uint64_t per_mille) {
  return index_where(out, in, [&](std::int64_t r, std::int64_t c) {
    return mix64(static_cast<std::uint64_t>(r * in + c)) % 1000 < per_mille;
  });
}

struct Shape {
  std::int64_t tokens, out, in;
};

constexpr MaskPath kPaths[] = {MaskPath::kSampled, MaskPath::kRows,
                               MaskPath::kColumns};

// Every path against the twin, from zero and onto what is there.
void expect_twin(const Shape& s, const at::Tensor& index,
                 at::ScalarType type = at::kFloat) {
  const MaskPlan plan = make_mask_plan(index, s.out, s.in);
  const at::Tensor x = normal("x", {s.tokens, s.in}).to(type);
  const at::Tensor dy = normal("dy", {s.tokens, s.out}).to(type);
  const at::Tensor before = normal("before", {plan.size()});
  for (const bool accumulate : {false, true}) {
    at::Tensor expected = before.clone();
    masked_gradient_reference(expected, plan, x, dy,
                              {.accumulate = accumulate});
    for (const MaskPath path : kPaths) {
      at::Tensor grad = before.clone();
      masked_gradient(grad, plan, x, dy,
                      {.accumulate = accumulate, .path = path});
      // Sums of T products of normal numbers, in another order.
      EXPECT_LE(largest_difference(grad, expected),
                2e-6 * static_cast<double>(s.tokens) + 1e-6)
          << name_of(path) << " [" << s.tokens << ", " << s.out << ", " << s.in
          << "] k " << plan.size() << (accumulate ? " accumulated" : "");
    }
  }
}

TEST(MaskedGradient, UniformAgreesWithTheTwin) {
  for (const Shape& s :
       {Shape{1, 7, 5}, Shape{3, 16, 16}, Shape{16, 33, 70}, Shape{40, 64, 64},
        Shape{64, 130, 48}, Shape{129, 200, 77}, Shape{300, 96, 257}}) {
    for (const std::uint64_t per_mille : {5, 60, 300, 1000}) {
      expect_twin(s, uniform(s.out, s.in, per_mille));
    }
  }
}

TEST(MaskedGradient, RowsAndColumnsThatFill) {
  const Shape s{70, 150, 140};
  expect_twin(s, index_where(s.out, s.in, [](auto r, auto) { return r == 3; }));
  expect_twin(s,
              index_where(s.out, s.in, [](auto, auto c) { return c == 139; }));
  expect_twin(s, index_where(s.out, s.in, [](auto r, auto c) {
                return r % 50 == 1 || c % 60 == 7 || (r > 140 && c < 30);
              }));
  expect_twin(s, index_of({s.out * s.in - 1}));
}

TEST(MaskedGradient, MoreLinesThanOnePanel) {
  const Shape s{5, 1100, 1050};
  expect_twin(s, uniform(s.out, s.in, 200));
}

TEST(MaskedGradient, Bf16OperandsWithFp32Sums) {
  for (const std::uint64_t per_mille : {5, 300, 1000}) {
    expect_twin({100, 70, 90}, uniform(70, 90, per_mille), at::kBFloat16);
  }
}

TEST(MaskedGradient, RowsOfALargerMatrix) {
  const at::Tensor x = normal("x", {50, 100}).narrow(1, 10, 64);
  const at::Tensor dy = normal("dy", {50, 90}).narrow(1, 3, 80);
  const MaskPlan plan = make_mask_plan(uniform(80, 64, 300), 80, 64);
  at::Tensor expected = at::empty({plan.size()});
  masked_gradient_reference(expected, plan, x, dy);
  for (const MaskPath path : kPaths) {
    at::Tensor grad = at::empty({plan.size()});
    masked_gradient(grad, plan, x, dy, {.path = path});
    EXPECT_LE(largest_difference(grad, expected), 1e-4) << name_of(path);
  }
}

// Slices of a vocabulary, one after another, are the whole.
TEST(MaskedGradient, SlicesOfTheWeight) {
  const std::int64_t out = 300, in = 40, tokens = 33;
  const at::Tensor x = normal("x", {tokens, in});
  const at::Tensor dy = normal("dy", {tokens, out});
  for (const std::uint64_t per_mille : {8, 400}) {
    const MaskPlan plan = make_mask_plan(uniform(out, in, per_mille), out, in);
    at::Tensor expected = at::empty({plan.size()});
    masked_gradient_reference(expected, plan, x, dy);
    for (const MaskPath path : kPaths) {
      at::Tensor grad = at::full({plan.size()}, 1e30);
      at::Tensor twin = grad.clone();
      for (std::int64_t row = 0; row < out; row += 110) {
        const at::Tensor slice =
            dy.narrow(1, row, std::min<std::int64_t>(110, out - row));
        masked_gradient(grad, plan, x, slice, {.first_row = row, .path = path});
        masked_gradient_reference(twin, plan, x, slice, {.first_row = row});
      }
      EXPECT_LE(largest_difference(grad, expected), 1e-4) << name_of(path);
      EXPECT_LE(largest_difference(twin, expected), 1e-4);
    }
  }
}

TEST(MaskedGradient, NoPositionsNoRows) {
  const MaskPlan none = make_mask_plan(index_of({}), 8, 8);
  EXPECT_EQ(choose_mask_path(none, 100), MaskPath::kEmpty);
  EXPECT_EQ(none.bytes(), 0);
  at::Tensor grad = at::empty({0});
  masked_gradient(grad, none, normal("x", {3, 8}), normal("dy", {3, 8}));
  const MaskPlan plan = make_mask_plan(index_of({1, 9}), 8, 8);
  at::Tensor kept = at::full({2}, 3.0);
  masked_gradient(kept, plan, at::empty({0, 8}), at::empty({0, 8}),
                  {.accumulate = true});
  EXPECT_EQ(kept.sum().item<float>(), 6);
  masked_gradient(kept, plan, at::empty({0, 8}), at::empty({0, 8}));
  EXPECT_EQ(kept.sum().item<float>(), 0);
}

TEST(MaskedGradient, SameBitsForAnyNumberOfThreads) {
  const MaskPlan plan = make_mask_plan(uniform(200, 300, 100), 200, 300);
  const at::Tensor x = normal("x", {150, 300}), dy = normal("dy", {150, 200});
  const int threads = at::get_num_threads();
  for (const MaskPath path : kPaths) {
    at::Tensor one = at::empty({plan.size()}), two = at::empty({plan.size()});
    at::set_num_threads(1);
    masked_gradient(one, plan, x, dy, {.path = path});
    at::set_num_threads(2);
    masked_gradient(two, plan, x, dy, {.path = path});
    at::set_num_threads(threads);
    EXPECT_TRUE(one.equal(two)) << name_of(path);
  }
}

TEST(MaskPlan, FirstBadPlaceIsNamed) {
  const auto message = [](const at::Tensor& index) -> std::string {
    try {
      make_mask_plan(index, 4, 5, "layer.weight");
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(message(index_of({0, 3, 19})), "");
  EXPECT_THAT(
      message(index_of({0, 3, 20})),
      HasSubstr("layer.weight: position 2 is 20, out of range [0, 20)"));
  EXPECT_THAT(message(index_of({-1, 3})), HasSubstr("position 0 is -1"));
  EXPECT_THAT(message(index_of({2, 7, 7, 9})),
              HasSubstr("position 2 is 7 and the one before it 7"));
  EXPECT_THAT(message(index_of({2, 8, 7}).to(at::kInt)),
              HasSubstr("position 2 is 7 and the one before it 8"));
}

TEST(MaskPlan, MemoryGoesWithThePositions) {
  for (const std::uint64_t per_mille : {1, 20, 500, 1000}) {
    const MaskPlan plan =
        make_mask_plan(uniform(512, 512, per_mille), 512, 512);
    // Per position its pair, a row, a column and where a row begins at most,
    // and a 64th of a stretch where an eighth of the weights is chosen.
    EXPECT_LE(plan.bytes(), plan.size() * 22 + 8) << per_mille;
  }
}

// Constructed so that one path is the right one by far.
TEST(MaskPlan, PathByCost) {
  const auto path = [](const at::Tensor& index, std::int64_t rows) {
    return choose_mask_path(make_mask_plan(index, 768, 768), rows);
  };
  EXPECT_EQ(path(uniform(768, 768, 5), 1024), MaskPath::kSampled);
  EXPECT_EQ(path(uniform(768, 768, 20), 1024), MaskPath::kSampled);
  EXPECT_NE(path(uniform(768, 768, 1000), 1024), MaskPath::kSampled);
  EXPECT_NE(path(uniform(768, 768, 600), 1024), MaskPath::kSampled);
  const auto column = [](auto, auto c) { return c == 100; };
  const auto row = [](auto r, auto) { return r == 100; };
  EXPECT_EQ(path(index_where(768, 768, column), 1024), MaskPath::kColumns);
  EXPECT_EQ(path(index_where(768, 768, row), 1024), MaskPath::kRows);
}

// The choice is what the stated formula says, constant by constant.
TEST(MaskPlan, PathFollowsTheCosts) {
  const MaskPlan plan = make_mask_plan(uniform(64, 96, 100), 64, 96);
  EXPECT_EQ(choose_mask_path(plan, 64,
                             {.sampled_position = 0, .transposed_number = 0}),
            MaskPath::kSampled);
  EXPECT_NE(choose_mask_path(plan, 64, {.sampled_position = 1e6}),
            MaskPath::kSampled);
  EXPECT_EQ(choose_mask_path(plan, 64, {.gathered_position = 1e6}),
            MaskPath::kSampled);
}

TEST(MaskedEmbedding, AgreesWithTheTwin) {
  const std::int64_t vocabulary = 40, d = 100;
  const at::Tensor tokens = index_of({3, 39, 3, 0, 17, 3, 17});
  const at::Tensor dy = normal("dy", {7, d});
  const at::Tensor dense =
      at::zeros({vocabulary, d}).index_add(0, tokens, dy).flatten();
  // A few positions a row, enough to sum whole rows first, half, all.
  for (const std::int64_t k : {60, 600, 2000, 4000}) {
    const MaskPlan plan =
        make_mask_plan(uniform(vocabulary, d, k), vocabulary, d);
    const at::Tensor sums = dense.index_select(0, plan.index);
    at::Tensor grad = at::full({plan.size()}, 9.0);
    masked_embedding_gradient(grad, plan, tokens, dy);
    EXPECT_LE(largest_difference(grad, sums), 1e-6) << k;
    masked_embedding_gradient(grad, plan, tokens, dy, true);
    EXPECT_LE(largest_difference(grad, sums.mul(2)), 1e-6) << k;
    EXPECT_THROW(masked_embedding_gradient(grad, plan, index_of({40}),
                                           dy.narrow(0, 0, 1)),
                 UsageError);
  }
}

TEST(MaskedVectors, BiasAndNormsAgreeWithTheTwin) {
  const std::int64_t tokens = 70, d = 50;
  const at::Tensor dy = normal("dy", {tokens, d}), x = normal("x", {tokens, d});
  const at::Tensor mean = normal("mean", {tokens});
  const at::Tensor inverse = normal("inverse", {tokens});
  for (const at::Tensor& index :
       {index_of({}), index_of({49}), index_of({0, 7, 8, 30}).to(at::kInt),
        at::arange(d, at::TensorOptions().dtype(at::kLong))}) {
    const at::Tensor before = normal("before", {index.numel()});
    const auto expect = [&](const at::Tensor& dense, const auto& compute) {
      const at::Tensor sums = dense.index_select(0, index.to(at::kLong));
      at::Tensor grad = before.clone();
      compute(grad, false);
      EXPECT_LE(largest_difference(grad, sums), 5e-5);
      grad = before.clone();
      compute(grad, true);
      EXPECT_LE(largest_difference(grad, sums.add(before)), 5e-5);
    };
    expect(dy.sum(0), [&](at::Tensor& grad, bool accumulate) {
      masked_bias_gradient(grad, index, dy, accumulate);
    });
    expect(dy.mul(x).mul(inverse.unsqueeze(1)).sum(0),
           [&](at::Tensor& grad, bool accumulate) {
             masked_norm_gradient(grad, index, dy, x, {}, inverse, accumulate);
           });
    expect(dy.mul(x.sub(mean.unsqueeze(1))).mul(inverse.unsqueeze(1)).sum(0),
           [&](at::Tensor& grad, bool accumulate) {
             masked_norm_gradient(grad, index, dy, x, mean, inverse,
                                  accumulate);
           });
  }
}

}  // namespace
}  // namespace thinwire
