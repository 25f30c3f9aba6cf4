#include "peft/projection.h"

#include <ATen/ops/addmm.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/random.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

class Dense : public Projection {
 public:
  Dense(at::Tensor weight, at::Tensor bias)
      : weight_(std::move(weight)), bias_(std::move(bias)) {}
  at::Tensor operator()(const at::Tensor& x) const override {
    return at::linear(x, weight_, bias_);
  }

 private:
  at::Tensor weight_, bias_;
};

class DenseKind : public ProjectionKind {
 public:
  explicit DenseKind(const DenseOptions& options) : options_(options) {}

  void declare(DeltaBuilder& builder, const ProjectionPlace& place,
               std::uint64_t seed) const override {
    const std::string name = place.stem + "weight";
    at::Tensor weight = at::zeros({place.out, place.in}, at::kFloat);
    auto* to = weight.mutable_data_ptr<float>();
    if (!options_.zero_up) {
      fill_normal(to, weight.numel(), seed, name,
                  static_cast<float>(options_.std));
    } else if (!place.up) {
      const auto bound =
          static_cast<float>(1 / std::sqrt(static_cast<double>(place.in)));
      fill_uniform(to, weight.numel(), seed, name, -bound, bound);
    }
    declare_dense(builder, name, std::move(weight));
    declare_dense(builder, place.stem + "bias",
                  at::zeros({place.out}, at::kFloat));
  }

  std::unique_ptr<Projection> read(
      const Delta& delta, const ProjectionPlace& place) const override {
    return std::make_unique<Dense>(delta.leaf(place.stem + "weight"),
                                   delta.leaf(place.stem + "bias"));
  }

 private:
  DenseOptions options_;
};

class LowRankMap : public Projection {
 public:
  LowRankMap(at::Tensor left, at::Tensor right, at::Tensor bias)
      : left_(std::move(left)),
        right_(std::move(right)),
        bias_(std::move(bias)) {}
  at::Tensor operator()(const at::Tensor& x) const override {
    return at::addmm(bias_, x.matmul(left_), right_);
  }

 private:
  at::Tensor left_, right_, bias_;
};

class LowRankKind : public ProjectionKind {
 public:
  explicit LowRankKind(std::int64_t rank) : rank_(rank) {}

  void declare(DeltaBuilder& builder, const ProjectionPlace& place,
               std::uint64_t seed) const override {
    declare_dense(builder, place.stem + kLeft,
                  glorot(place.stem + kLeft, {place.in, rank_}, seed));
    declare_dense(builder, place.stem + kRight,
                  place.up
                      ? at::zeros({rank_, place.out}, at::kFloat)
                      : glorot(place.stem + kRight, {rank_, place.out}, seed));
    declare_dense(builder, place.stem + kBias,
                  at::zeros({place.out}, at::kFloat));
  }

  std::unique_ptr<Projection> read(
      const Delta& delta, const ProjectionPlace& place) const override {
    return std::make_unique<LowRankMap>(delta.leaf(place.stem + kLeft),
                                        delta.leaf(place.stem + kRight),
                                        delta.leaf(place.stem + kBias));
  }

 private:
  static constexpr const char *kLeft = "W_left", *kRight = "W_right",
                              *kBias = "b";

  static at::Tensor glorot(const std::string& name,
                           const std::vector<std::int64_t>& shape,
                           std::uint64_t seed) {
    return uniform_values(
        name, shape, std::sqrt(6 / static_cast<double>(shape[0] + shape[1])),
        seed);
  }

  std::int64_t rank_;
};

}  // namespace

std::unique_ptr<ProjectionKind> low_rank_projections(std::int64_t rank) {
  return std::make_unique<LowRankKind>(rank);
}

std::unique_ptr<ProjectionKind> dense_projections(const DenseOptions& options) {
  return std::make_unique<DenseKind>(options);
}

}  // namespace thinwire
