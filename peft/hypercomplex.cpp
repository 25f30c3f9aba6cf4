#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "peft/method_tools.h"
#include "peft/projection.h"

namespace thinwire {
namespace {

constexpr char kSharedRule[] = "shared_parameters.thinwire.phm_rule";

// B whole: W is put together, which costs what one token's product does.
class Whole : public Projection {
 public:
  Whole(at::Tensor a, at::Tensor b, at::Tensor bias)
      : a_(std::move(a)), b_(std::move(b)), bias_(std::move(bias)) {}

  at::Tensor operator()(const at::Tensor& x) const override {
    const std::int64_t n = a_.size(0), in = b_.size(1), out = b_.size(2);
    const at::Tensor blocks = a_.permute({1, 2, 0})
                                  .reshape({n * n, n})
                                  .matmul(b_.view({n, in * out}))
                                  .view({n, n, in, out});
    const at::Tensor w =
        blocks.permute({0, 2, 1, 3}).reshape({n * in, n * out});
    return at::addmm(bias_, x, w);
  }

 private:
  at::Tensor a_, b_, bias_;
};

// B_i = s_i t_i: x meets the few columns of all s first, W is never made. The
// rule goes with t: G[(a, i, r), (c, o)] = A[i, a, c] t[i, r, o].
class Factored : public Projection {
 public:
  Factored(at::Tensor a, at::Tensor s, at::Tensor t, at::Tensor bias)
      : a_(std::move(a)),
        s_(std::move(s)),
        t_(std::move(t)),
        bias_(std::move(bias)) {}

  at::Tensor operator()(const at::Tensor& x) const override {
    const std::int64_t n = a_.size(0), in = s_.size(1), r = s_.size(2),
                       out = t_.size(2), rows = x.size(0);
    const at::Tensor u = x.reshape({rows * n, in})
                             .matmul(s_.permute({1, 0, 2}).reshape({in, n * r}))
                             .view({rows, n * n * r});
    const at::Tensor g = a_.permute({1, 0, 2})
                             .reshape({n, n, 1, n, 1})
                             .mul(t_.view({1, n, r, 1, out}))
                             .reshape({n * n * r, n * out});
    return at::addmm(bias_, u, g);
  }

 private:
  at::Tensor a_, s_, t_, bias_;
};

class HypercomplexKind : public ProjectionKind {
 public:
  explicit HypercomplexKind(const HypercomplexOptions& options)
      : options_(options) {}

  void declare_shared(DeltaBuilder& builder,
                      std::uint64_t seed) const override {
    if (options_.shared_rule) declare_rule(builder, kSharedRule, 1e-4, seed);
  }

  void declare(DeltaBuilder& builder, const ProjectionPlace& place,
               std::uint64_t seed) const override {
    const std::int64_t n = options_.n, in = place.in / n, out = place.out / n;
    for (const std::int64_t width : {place.in, place.out}) {
      if (width % n == 0) continue;
      fail<UsageError>(
          "{}: phm_dim {} does not divide {}, a width of {}; choose a "
          "bottleneck that it divides",
          options_.method, n, width,
          place.stem.substr(0, place.stem.size() - 1));
    }
    if (!options_.shared_rule) {
      declare_rule(builder, place.stem + "phm_rule", 0.01, seed);
    }
    if (options_.rank == 0) {
      declare_slices(builder, place.stem + "W", {n, in, out}, seed);
    } else {
      declare_slices(builder, place.stem + "W_left", {n, in, options_.rank},
                     seed);
      declare_slices(builder, place.stem + "W_right", {n, options_.rank, out},
                     seed);
    }
    declare_dense(builder, place.stem + "b",
                  at::zeros({place.out}, at::kFloat));
  }

  std::unique_ptr<Projection> read(
      const Delta& delta, const ProjectionPlace& place) const override {
    const auto leaf = [&](const char* name) {
      return delta.leaf(place.stem + name);
    };
    const at::Tensor rule =
        options_.shared_rule ? delta.leaf(kSharedRule) : leaf("phm_rule");
    if (options_.rank == 0) {
      return std::make_unique<Whole>(rule, leaf("W"), leaf("b"));
    }
    return std::make_unique<Factored>(rule, leaf("W_left"), leaf("W_right"),
                                      leaf("b"));
  }

 private:
  // Near zero as it starts, decay would only keep it there.
  void declare_rule(DeltaBuilder& builder, const std::string& name, double std,
                    std::uint64_t seed) const {
    const std::int64_t n = options_.n;
    at::Tensor rule = at::empty({n, n, n}, at::kFloat);
    fill_normal(rule.mutable_data_ptr<float>(), rule.numel(), seed, name,
                static_cast<float>(std));
    declare_dense(builder, name, std::move(rule), decay_group(builder, 1));
  }

  // Glorot's uniform with gain sqrt(2), each slice by itself, as in the
  // reference code.
  static void declare_slices(DeltaBuilder& builder, const std::string& name,
                             const std::vector<std::int64_t>& shape,
                             std::uint64_t seed) {
    at::Tensor slices = at::empty(shape, at::kFloat);
    const auto bound = static_cast<float>(
        std::sqrt(12.0 / static_cast<double>(shape[1] + shape[2])));
    fill_uniform(slices.mutable_data_ptr<float>(), slices.numel(), seed, name,
                 -bound, bound);
    declare_dense(builder, name, std::move(slices));
  }

  HypercomplexOptions options_;
};

}  // namespace

std::unique_ptr<ProjectionKind> hypercomplex_projections(
    const HypercomplexOptions& options) {
  return std::make_unique<HypercomplexKind>(options);
}

}  // namespace thinwire
