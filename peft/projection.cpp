#include "peft/projection.h"

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

}  // namespace

std::unique_ptr<ProjectionKind> dense_projections(const DenseOptions& options) {
  return std::make_unique<DenseKind>(options);
}

}  // namespace thinwire
