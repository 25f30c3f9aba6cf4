// VeRA: y = W x + b + l_b * (B (l_d * (A dropout(x)))); A and B are random,
// frozen and shared by all layers, the vectors l_d and l_b train.
// Kopiczko, Blankevoort & Asano 2024, "VeRA: Vector-based random matrix
// adaptation", sec. 3. A and B are uniform with Kaiming's bound; a layer uses
// the first columns of A and rows of B. l_b starts at 0, so step 0 equals the
// backbone. Entry names and shapes are HF peft's.
// Shapes: A [r, most d_in], B [most d_out, r], l_d [r], l_b [d_out], x [T,
// d_in].
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "peft/input_dropout.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"r", FieldType::kInt, "256", "rank of the shared projections"},
    {"d_initial", FieldType::kFloat, "0.1", "what l_d starts at"},
    {"dropout", FieldType::kFloat, "0", "on the input of A only"},
    {"target_modules", FieldType::kStrings, "~",
     "linear modules by the end of their names, all-linear, or one regular "
     "expression; default: query and value projections"},
    {"projection_seed", FieldType::kInt, "0", "of A and B"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kA[] = "base_model.vera_A", kB[] = "base_model.vera_B";

std::string entry_name(const Site& site, char vector) {
  return fmt::format("base_model.model.{}.vera_lambda_{}", site.name, vector);
}

class VeraPath : public LinearAttachment {
 public:
  VeraPath(at::Tensor a, at::Tensor b, at::Tensor l_d, at::Tensor l_b,
           double dropout, const Site& site)
      : a_(std::move(a)),
        b_(std::move(b)),
        l_d_(std::move(l_d)),
        l_b_(std::move(l_b)),
        dropout_(dropout, site.name + ".vera_dropout") {}

  at::Tensor path(const at::Tensor& x, const ForwardContext& ctx) override {
    const at::Tensor inner = at::linear(dropout_(x, ctx), a_).mul(l_d_);
    return at::linear(inner, b_).mul(l_b_);
  }

 private:
  at::Tensor a_, b_, l_d_, l_b_;
  InputDropout dropout_;
};

class Vera : public Method {
 public:
  explicit Vera(Config config)
      : config_(std::move(config)),
        r_(config_.at("r").get<std::int64_t>()),
        start_(config_.at("d_initial").get<double>()),
        dropout_(checked_dropout(config_.at("dropout").get<double>(), "vera")),
        targets_(string_list(config_.at("target_modules"))) {
    if (r_ < 1 || r_ > 65536) {
      fail<UsageError>("vera: r must be in [1, 65536], got {}", r_);
    }
    if (!std::isfinite(start_) || start_ == 0) {
      fail<UsageError>(
          "vera: d_initial must be a number other than 0, got {}; at 0 neither "
          "vector would have a gradient",
          start_);
    }
  }

  std::string_view id() const override { return "vera"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext&) override {
    builder.method_config(config_text(id(), config_));
    const std::vector<int> numbers = sites(backbone);
    std::int64_t d_in = 0, d_out = 0;
    for (const int number : numbers) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      d_in = std::max(d_in, site.d_in);
      d_out = std::max(d_out, site.d_out);
      declare_dense(builder, entry_name(site, 'd'),
                    at::full({r_}, start_, at::kFloat));
      declare_dense(builder, entry_name(site, 'b'),
                    at::zeros({site.d_out}, at::kFloat));
    }
    builder.constant(kA, projection(kA, r_, d_in));
    builder.constant(kB, projection(kB, d_out, r_));
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const Parts p = parts(delta, site);
      backbone.attach(number, std::make_shared<VeraPath>(p.a, p.b, p.l_d, p.l_b,
                                                         dropout_, site));
    }
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    merge_targets(slots, backbone, delta);
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const Parts p = parts(delta, site);
      const at::Tensor update =
          p.b.mul(p.l_b.detach().unsqueeze(1))
              .matmul(p.a.mul(p.l_d.detach().unsqueeze(1)));
      own_weight(slots, backbone, site, id()).add_(update);
    }
  }
  bool mergeable() const override { return true; }

 private:
  struct Parts {
    at::Tensor a, b, l_d, l_b;
  };
  static Parts parts(const Delta& delta, const Site& site) {
    const at::Tensor& l_d = delta.leaf(entry_name(site, 'd'));
    const auto shared = [&](const char* name) {
      return delta.constants().at(name).to(l_d.device());
    };
    return {shared(kA).narrow(1, 0, site.d_in),
            shared(kB).narrow(0, 0, site.d_out), l_d,
            delta.leaf(entry_name(site, 'b'))};
  }

  at::Tensor projection(const char* name, std::int64_t rows,
                        std::int64_t columns) const {
    at::Tensor p = at::empty({rows, columns}, at::kFloat);
    const auto bound =
        static_cast<float>(std::sqrt(6 / static_cast<double>(columns)));
    fill_uniform(p.mutable_data_ptr<float>(), p.numel(),
                 config_.at("projection_seed").get<std::uint64_t>(), name,
                 -bound, bound);
    return p;
  }

  std::vector<int> sites(const Backbone& backbone) const {
    return target_sites(backbone, targets_, id());
  }

  Config config_;
  std::int64_t r_;
  double start_, dropout_;
  std::vector<std::string> targets_;
};

}  // namespace

const MethodInfo& vera_method() {
  static const MethodInfo kInfo = {
      "vera", "scales of shared random projections (Kopiczko et al. 2024)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Vera>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
