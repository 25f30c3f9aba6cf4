// A change of a linear site's weight (LinearAttachment::weight_change) against
// a path that multiplies with the same matrix.
#include <ATen/ops/linear.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "models/sites.h"
#include "models/test_models.h"

namespace thinwire {
namespace {

// Numbers that belong to a name, of a size that matters.
at::Tensor numbers(const char* name, std::vector<std::int64_t> shape) {
  return random_source(3)->get({name}, shape, {Init::Kind::kNormal, 0.5f});
}

struct ScalesIn : LinearAttachment {
  at::Tensor in;
  at::Tensor scale_in(const ForwardContext&) override { return in; }
};
struct Change : LinearAttachment {
  at::Tensor matrix;
  at::Tensor weight_change(const ForwardContext&) override { return matrix; }
};
struct MatrixPath : LinearAttachment {
  at::Tensor matrix;
  at::Tensor path(const at::Tensor& x, const ForwardContext&) override {
    return at::linear(x, matrix);
  }
};

struct Linear {
  const char *model, *site, *dtype;
  std::int64_t in, out;
  bool scaled, masked;
};

// The output of a site and the gradients of its input, of what is attached to
// it and of the numbers of W that train.
template <class Kind>
std::vector<at::Tensor> outcome(const Linear& c) {
  const std::string folder = golden_path(c.model);
  const ModelConfig config = read_model_config(folder + "/config.json");
  const auto model = make_backbone(
      config, *matrices_in(c.dtype, open_weights(folder, config)));
  const int site = model->find_site(SiteKind::kLinear, c.site);
  at::Tensor values;
  if (c.masked) {
    Parameters& p = model->parameters();
    const int w = p.require(std::string(c.site) + ".weight");
    const at::Tensor index = at::tensor({3, 50, 700}, at::kInt);
    values = p.slot(w).frozen.flatten().index_select(0, index).to(at::kFloat);
    p.set_masked(w, values.requires_grad_(true), index);
  }
  if (c.scaled) {
    auto scales = std::make_shared<ScalesIn>();
    scales->in = numbers("in", {c.in});
    model->attach(site, scales);
  }
  const at::Tensor matrix =
      numbers("matrix", {c.out, c.in}).requires_grad_(true);
  auto attached = std::make_shared<Kind>();
  attached->matrix = matrix;
  model->attach(site, attached);

  const at::Tensor x = numbers("x", {5, c.in}).requires_grad_(true);
  const Layout layout = make_layout({5}, {1});
  ForwardContext ctx;
  ctx.layout = &layout;
  const at::Tensor y = model->linear(site, x, ctx);
  y.mul(numbers("dy", {5, c.out})).sum().backward();
  std::vector<at::Tensor> out{y, x.grad(), matrix.grad()};
  if (c.masked) out.push_back(values.grad());
  return out;
}

// However W lies and whatever it is; also where W alone reads x scaled, and
// where numbers of W train.
TEST(LinearSite, AChangeOfTheWeightIsAPathThatIsAMatrix) {
  std::vector<Linear> cases;
  for (const char* dtype : {"fp32", "bf16", "int8"}) {
    for (const bool scaled : {false, true}) {
      for (const bool masked : {false, true}) {
        if (masked && std::string_view(dtype) == "int8") continue;
        cases.push_back({"bert_bare", "bert.encoder.layer.1.intermediate.dense",
                         dtype, 24, 40, scaled, masked});
        cases.push_back({"gpt2_bare", "transformer.h.0.attn.c_attn", dtype, 24,
                         72, scaled, masked});
      }
    }
  }
  for (const Linear& c : cases) {
    const auto changed = outcome<Change>(c), beside = outcome<MatrixPath>(c);
    for (std::size_t i = 0; i < changed.size(); ++i) {
      EXPECT_TRUE(golden_close("changed", changed[i], beside[i], 1e-6))
          << i << " of " << c.model << " " << c.dtype
          << (c.scaled ? " scaled" : "") << (c.masked ? " masked" : "");
    }
  }
}

}  // namespace
}  // namespace thinwire
