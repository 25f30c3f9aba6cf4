// Ladder Side-Tuning: a narrow copy of the backbone runs beside it, reads what
// its layers give and answers in its place; the backbone has no graph at all.
// Sung, Cho & Bansal 2022, "LST: Ladder side-tuning for parameter and memory
// efficient transfer learning", sec. 3; the released code decides where the
// text is open, and entries have its names.
//   s = W_0 dropout(e) + b_0, then for each side layer i, in order:
//   s = mu_i s + (1 - mu_i) (W_i h_i + b_i), mu_i = sigmoid(alpha_i / T)
//   s = side block i (s);  y = U s + u goes into the frozen head
// e: the embeddings; h_i: what the backbone's layer i gave; side blocks: the
// backbone's own, every width but the number of heads divided by
// reduction_factor. Each stack has such a side; the decoder's attends to the
// encoder's. Side blocks begin as parts of the backbone
// (peft/structural_pruning.h), the maps uniform in (-1/sqrt(in), 1/sqrt(in)),
// alpha at 0. Dropped layers have a gate that nothing moves, as in the paper's
// counts. A relative bias table of its own belongs to a stack's first side
// layer.
// Differs: the backbone runs in evaluation mode unless frozen_dropout is set;
// importance comes from gradients of an example's summed loss (the reference:
// of the mean over its target tokens); gated feed-forwards are pruned too; of
// BART both stacks have a side (the reference: the encoder), and its embeddings
// are read before their dropout.
// Shapes: e, h_i [T, d], s [T, d'], W_i [d', d], U [d, d'].
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/error.h"
#include "models/tensor_source.h"
#include "peft/fisher.h"
#include "peft/ladder.h"
#include "peft/method_tools.h"
#include "peft/side_model.h"
#include "peft/structural_pruning.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"reduction_factor", FieldType::kInt, "8",
     "divides every width of the side network but the number of heads"},
    {"encoder_layers", FieldType::kInts, "~",
     "layers, from 0, that have a side layer; default: all"},
    {"decoder_layers", FieldType::kInts, "~", "likewise"},
    {"gate_temperature", FieldType::kFloat, "0.1",
     "T of mu = sigmoid(alpha / T)"},
    {"init", FieldType::kString, "fisher",
     "side layers begin as the backbone's rows and columns with the largest "
     "fisher information or magnitude, or random"},
    {"samples", FieldType::kInt, "1024",
     "training examples that init: fisher reads, over all ranks"},
    {"frozen_dropout", FieldType::kBool, "false",
     "dropout acts in the backbone too, as in the paper"},
};

constexpr Stack kStacks[] = {Stack::kEncoder, Stack::kDecoder};

class Lst : public Method {
 public:
  explicit Lst(Config config)
      : config_(std::move(config)),
        factor_(config_.at("reduction_factor").get<std::int64_t>()),
        temperature_(config_.at("gate_temperature").get<double>()),
        init_(config_.at("init").get<std::string>()),
        samples_(config_.at("samples").get<std::int64_t>()) {
    require(factor_ >= 1, "reduction_factor", "at least 1");
    require(temperature_ > 0 && std::isfinite(temperature_), "gate_temperature",
            "above 0");
    require(init_ == "fisher" || init_ == "magnitude" || init_ == "random",
            "init", "fisher, magnitude or random");
    require(samples_ >= 1, "samples", "at least 1");
  }

  std::string_view id() const override { return "lst"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    const SideLayers layers = layers_of(backbone);
    const auto source = random_source(context.seed);
    const SideModel side =
        init_ == "random" ? make_side_model(backbone, factor_, layers, *source)
                          : make_side_shapes(backbone, factor_, layers);
    declare_side(builder, backbone, side, context);
    const std::int64_t d = backbone.config().d_model,
                       narrow = side.backbone->config().d_model;
    for (const Stack stack : kStacks) {
      const std::string stem = stack_name(backbone, stack) + ".side_";
      declare_affine(builder, stem + "first_downsample", narrow, d,
                     context.seed);
      for (const int layer : layers.of(stack)) {
        declare_affine(builder, fmt::format("{}downsamples.{}", stem, layer),
                       narrow, d, context.seed);
      }
      for (int layer = 0; layer < depth(backbone, stack); ++layer) {
        declare_dense(builder, fmt::format("{}gate_params.{}", stem, layer),
                      at::zeros({1}, at::kFloat));
      }
    }
    declare_affine(builder, kUp, d, narrow, context.seed);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    const SideLayers layers = layers_of(backbone);
    SideModel side = make_side_shapes(backbone, factor_, layers);
    for (const SideTensor& t : side.tensors) {
      side.backbone->parameters().set_leaf(t.slot, delta.leaf(t.entry));
    }
    const auto affine = [&](const std::string& stem) {
      return Affine{delta.leaf(stem + ".weight"), delta.leaf(stem + ".bias")};
    };
    LadderParts parts;
    for (const Stack stack : kStacks) {
      LadderStack& to =
          stack == Stack::kEncoder ? parts.encoder : parts.decoder;
      const std::string stem = stack_name(backbone, stack) + ".side_";
      to.first = affine(stem + "first_downsample");
      for (const int layer : layers.of(stack)) {
        to.down.push_back(affine(fmt::format("{}downsamples.{}", stem, layer)));
        to.gate.push_back(
            delta.leaf(fmt::format("{}gate_params.{}", stem, layer)));
      }
    }
    parts.up = affine(kUp);
    parts.temperature = temperature_;
    parts.frozen_dropout = config_.at("frozen_dropout").get<bool>();
    backbone.attach(make_ladder(backbone, std::move(side.backbone), layers,
                                std::move(parts)));
  }

  std::unique_ptr<Method> on_layers(
      std::span<const int> encoder,
      std::span<const int> decoder) const override {
    Config config = config_;
    const auto choose = [&](const char* key, std::span<const int> layers) {
      if (config_.at(key).is_null()) return;
      const auto kept = config_.at(key).get<std::vector<int>>();
      config[key] = Config::array();
      for (int i = 0; i < std::ssize(layers); ++i) {
        const int layer = layers[static_cast<std::size_t>(i)];
        if (std::ranges::find(kept, layer) != kept.end()) {
          config[key].push_back(i);
        }
      }
    };
    choose("encoder_layers", encoder);
    choose("decoder_layers", decoder);
    return std::make_unique<Lst>(std::move(config));
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "lst: a network beside the backbone is no change of weights and cannot "
        "be merged");
  }

 private:
  static constexpr const char* kUp = "side_final_upsample";

  void require(bool right, const char* key, const char* what) const {
    if (right) return;
    fail<UsageError>("lst: {} must be {}, got {}", key, what,
                     config_.at(key).dump());
  }

  static int depth(const Backbone& backbone, Stack stack) {
    const ModelConfig& c = backbone.config();
    return static_cast<int>(stack == Stack::kEncoder ? c.layers
                                                     : c.decoder_layers);
  }

  SideLayers layers_of(const Backbone& backbone) const {
    if (backbone.config().decoder_layers == 0) {
      fail<UsageError>(
          "lst: runs beside an encoder and a decoder, this is {}; use a t5 or "
          "bart model",
          backbone.config().architecture);
    }
    return {layers_of(backbone, Stack::kEncoder, "encoder_layers"),
            layers_of(backbone, Stack::kDecoder, "decoder_layers")};
  }

  std::vector<int> layers_of(const Backbone& backbone, Stack stack,
                             const char* key) const {
    const int all = depth(backbone, stack);
    std::vector<int> out;
    if (config_.at(key).is_null()) {
      for (int layer = 0; layer < all; ++layer) out.push_back(layer);
      return out;
    }
    for (const Config& item : config_.at(key)) {
      const auto layer = item.get<std::int64_t>();
      if (layer < 0 || layer >= all) {
        fail<UsageError>("lst: {} has {}, but this {} has layers 0 to {} there",
                         key, layer, backbone.config().architecture, all - 1);
      }
      out.push_back(static_cast<int>(layer));
    }
    std::ranges::sort(out);
    require(std::ranges::adjacent_find(out) == out.end(), key,
            "without repetition");
    require(!out.empty(), key, "at least one layer");
    return out;
  }

  // Layers of the side network and what ends its stacks.
  void declare_side(DeltaBuilder& builder, const Backbone& backbone,
                    const SideModel& side,
                    const DeclareContext& context) const {
    const auto shape = [&](const SideTensor& t) {
      return side.backbone->parameters().slot(t.slot).frozen;
    };
    if (init_ == "random") {
      for (const SideTensor& t : side.tensors) {
        declare_dense(builder, t.entry, shape(t));
      }
      return;
    }
    if (context.scoring == nullptr) {  // to be counted
      for (const SideTensor& t : side.tensors) {
        declare_dense(builder, t.entry,
                      at::zeros(shape(t).sizes(), at::kFloat));
      }
      return;
    }
    const StructuralPruning pruning(backbone, *side.backbone,
                                    importance(backbone, *context.scoring));
    for (const SideTensor& t : side.tensors) {
      declare_dense(builder, t.entry, pruning.kept(t.from));
    }
  }

  StructuralPruning::Importance importance(const Backbone& backbone,
                                           Scoring& scoring) const {
    const Parameters& p = backbone.parameters();
    if (init_ == "magnitude") {
      return
          [&p](int slot) { return p.initial(slot).cpu().to(at::kFloat).abs(); };
    }
    const std::vector<int> slots = StructuralPruning::ranked(backbone);
    auto scores = fisher_scores(backbone, slots, scoring, samples_,
                                Scoring::Labels::kData);
    std::map<int, at::Tensor> of;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      of.emplace(slots[i], std::move(scores[i]));
    }
    return [of = std::move(of)](int slot) { return of.at(slot); };
  }

  static void declare_affine(DeltaBuilder& builder, const std::string& stem,
                             std::int64_t out, std::int64_t in,
                             std::uint64_t seed) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    const std::string weight = stem + ".weight", bias = stem + ".bias";
    declare_dense(builder, weight,
                  uniform_values(weight, {out, in}, bound, seed));
    declare_dense(builder, bias, uniform_values(bias, {out}, bound, seed));
  }

  Config config_;
  std::int64_t factor_;
  double temperature_;
  std::string init_;
  std::int64_t samples_;
};

}  // namespace

const MethodInfo& lst_method() {
  static const MethodInfo kInfo = {
      "lst", "a narrow network beside the frozen one (Sung et al. 2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Lst>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
