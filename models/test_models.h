// What the tests of backbones share.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "models/backbone.h"
#include "models/hf_inputs.h"
#include "models/safetensors.h"
#include "models/tensor_source.h"
#include "tests/harness/golden.h"

namespace thinwire {

// Every parameter a leaf of its own.
inline void train_everything(Backbone& backbone) {
  Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    if (p.slot(i).buffer) continue;
    p.set_leaf(i, p.slot(i).frozen.clone().set_requires_grad(true));
  }
}

// Every gradient in the golden file has its slot and the right numbers, and
// every slot has its gradient in the file.
inline void expect_golden_grads(const Backbone& backbone,
                                const SafetensorsFile& golden) {
  const Parameters& p = backbone.parameters();
  int found = 0;
  for (const std::string& name : golden.names()) {
    if (!name.starts_with("grad.")) continue;
    const int slot = p.find(name.substr(5));
    ASSERT_GE(slot, 0) << name;
    const at::Tensor grad = p.slot(slot).leaf.grad();
    if (name.ends_with(".key.bias") || name.ends_with(".k_proj.bias")) {
      // Softmax does not see what is added to all scores of a query: zero but
      // for rounding, measured by the gradient of the matrix beside it.
      const std::string matrix = name.substr(0, name.size() - 4) + "weight";
      EXPECT_LT(grad.sub(golden.tensor(name)).norm().item<double>(),
                kGoldenTolerance * golden.tensor(matrix).norm().item<double>())
          << name;
    } else {
      EXPECT_TRUE(golden_close(name, grad, golden.tensor(name)));
    }
    ++found;
  }
  int trained = 0;
  for (int i = 0; i < p.size(); ++i) trained += !p.slot(i).buffer;
  EXPECT_EQ(found, trained);
}

// The golden file's tensors that are inputs of HF's forward().
inline HfBatch golden_inputs(const SafetensorsFile& golden,
                             const ModelConfig& config) {
  NamedTensors inputs;
  for (const char* name : {"input_ids", "attention_mask", "token_type_ids",
                           "labels", "decoder_input_ids"}) {
    if (golden.contains(name)) inputs.emplace_back(name, golden.tensor(name));
  }
  return read_hf_inputs(inputs, config);
}

// A layer of a golden model's head: its site.
inline int add_head_layer(Backbone& backbone, TensorSource& source,
                          const std::string& name, std::int64_t outputs) {
  const std::int64_t d = backbone.config().d_model;
  Parameters& p = backbone.parameters();
  const int weight = p.add(
      name + ".weight", source.get({name + ".weight"}, {outputs, d}, {}), true);
  const int bias =
      backbone.config().decoder_only
          ? -1
          : p.add(name + ".bias", source.get({name + ".bias"}, {outputs}, {}),
                  true);
  return backbone.add_head_linear(name, weight, bias, d, outputs);
}

// The classification or regression head of a golden BERT, RoBERTa or GPT-2: the
// site of its last layer.
inline int add_classifier(Backbone& backbone, TensorSource& source,
                          std::int64_t labels) {
  if (!backbone.config().dense_head) {
    return add_head_layer(
        backbone, source,
        backbone.config().decoder_only ? "score" : "classifier", labels);
  }
  add_head_layer(backbone, source, "classifier.dense",
                 backbone.config().d_model);
  return add_head_layer(backbone, source, "classifier.out_proj", labels);
}

inline at::Tensor classify(Backbone& backbone, int classifier,
                           const BackboneInput& in, ForwardContext ctx) {
  const BackboneOutput out = backbone.forward(in, ctx);
  at::Tensor x = backbone.pooled(out, ctx);
  const Layout layout = pooled_layout(out.layout);
  ctx.layout = &layout;
  const int dense = backbone.find_site(SiteKind::kLinear, "classifier.dense");
  if (dense >= 0) x = backbone.linear(dense, x, ctx).tanh();
  return backbone.linear(classifier, x, ctx);
}

}  // namespace thinwire
