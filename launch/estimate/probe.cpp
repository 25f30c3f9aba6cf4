#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "launch/estimate/probe.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "dist/declare.h"
#include "dist/optimizer.h"
#include "launch/estimate/layer_names.h"
#include "models/side_features.h"
#include "models/tensor_source.h"
#include "ops/tensor_memory.h"

namespace thinwire {
namespace {

// Zeros in the dtypes of another model's weights.
class BlankSource : public TensorSource {
 public:
  explicit BlankSource(const Parameters& like) : like_(like) {}

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    const int slot = find(names);
    if (slot < 0 && !required) return {};
    return at::zeros(
        shape,
        at::TensorOptions().dtype(
            slot < 0 ? at::kFloat : like_.slot(slot).frozen.scalar_type()));
  }
  Matrix matrix(const std::vector<std::string>& names,
                const std::vector<std::int64_t>& shape, const Init& init,
                WeightAxes axes) override {
    Matrix m{get(names, shape, init, true), {}, {}, axes};
    if (m.tensor.scalar_type() != at::kChar) return m;
    m.scale = at::zeros({out_in(m.tensor, axes).size(0)}, at::kFloat);
    m.exact = [shape] { return at::zeros(shape, at::kBFloat16); };
    return m;
  }
  bool contains(std::string_view name) const override {
    return like_.find(name) >= 0;
  }

 private:
  int find(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
      if (const int slot = like_.find(name); slot >= 0) return slot;
    }
    return -1;
  }

  const Parameters& like_;
};

// The most since it was last asked.
double take_peak() {
  const auto bytes = static_cast<double>(peak_tensor_bytes());
  reset_peak_tensor_bytes();
  return bytes;
}

// Tells the encoder's share of a pass from the decoder's.
class EncoderEnd : public TapAttachment {
 public:
  explicit EncoderEnd(StepMemory& memory) : memory_(memory) {}

  at::Tensor layer_output(const at::Tensor& hidden,
                          const ForwardContext&) override {
    memory_.peak[StepMemory::kEncoderForward] = take_peak();
    if (hidden.requires_grad()) {
      hidden.register_hook([this](const at::Tensor&) {
        memory_.peak[StepMemory::kBackward] = take_peak();
      });
    }
    return hidden;
  }

 private:
  StepMemory& memory_;
};

class CountRows : public LinearAttachment {
 public:
  explicit CountRows(SiteUse& use) : use_(use) {}

  at::Tensor path(const at::Tensor& x, const ForwardContext&) override {
    use_.rows += x.size(0);
    use_.grad = use_.grad || x.requires_grad();
    return {};
  }

 private:
  SiteUse& use_;
};

class Trial {
 public:
  Trial(const RunConfig& config, const Backbone& full, const Delta& delta,
        const ChosenLayers& chosen)
      : config_(config), task_(make_task(config)), chosen_(chosen) {
    ModelConfig model = full.config();
    model.layers = std::ssize(chosen.encoder);
    model.decoder_layers = std::ssize(chosen.decoder);
    BlankSource source(full.parameters());
    backbone_ = make_backbone(model, source);
    task_->add_head(*backbone_, source);
    methods_ = make_methods(config);
    for (auto& method : methods_) {
      if (auto own = method->on_layers(chosen.encoder, chosen.decoder)) {
        method = std::move(own);
      }
    }
    if (config.train.dropout >= 0) backbone_->set_dropout(config.train.dropout);
    weights_ = static_cast<double>(live_tensor_bytes());
    // Counts only: nothing is scored.
    delta_ = with_masks_of(
        declare_delta(
            *backbone_, methods_,
            {.seed = config.train.seed, .step = 0, .scoring = nullptr}),
        delta, full, chosen);
    weights_ += static_cast<double>(
        masked_bytes(backbone_->parameters(), delta_).more());
    attach_delta(*backbone_, methods_, delta_);
    optimizer_.emplace(config.train, delta_);
    start_ = static_cast<double>(live_tensor_bytes());
  }

  StepMemory step(std::span<const Sample> samples) {
    StepMemory m;
    if (!config_.train.cache.empty()) m.features = make_features_of(samples);
    mark_encoder_end(m);
    delta_.zero_grads();
    reset_peak_tensor_bytes();
    {
      const at::Tensor loss = forward(samples);
      m.kept = static_cast<double>(live_tensor_bytes());
      m.peak[StepMemory::kForward] = take_peak();
      if (loss.requires_grad()) loss.backward();
      const bool split = m.peak[StepMemory::kBackward] > 0;
      m.peak[split ? StepMemory::kEncoderBackward : StepMemory::kBackward] =
          take_peak();
    }
    const std::vector<bool> active(delta_.entries().size(), true);
    optimizer_->step(delta_, active, config_.train.lr,
                     std::vector<double>(delta_.groups().size(), 1),
                     &backbone_->parameters());
    m.peak[StepMemory::kUpdate] = take_peak();
    m.kept -= start_;
    for (double& peak : m.peak) peak = std::max(0.0, peak - start_);
    return m;
  }

  std::map<std::string, SiteUse> uses(std::span<const Sample> samples) {
    const auto& sites = backbone_->sites();
    std::vector<SiteUse> use(sites.size());
    attach_delta(*backbone_, methods_, delta_);  // without what step() put on
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (sites[i].kind != SiteKind::kLinear) continue;
      backbone_->attach(static_cast<int>(i),
                        std::make_shared<CountRows>(use[i]));
    }
    forward(samples);
    attach_delta(*backbone_, methods_, delta_);
    const LayerNames names(*backbone_);
    std::map<std::string, SiteUse> out;
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (sites[i].kind != SiteKind::kLinear) continue;
      const auto place = names.find(sites[i].name);
      if (!place) {
        out.emplace(sites[i].name, use[i]);
        continue;
      }
      const auto& layers = place->decoder ? chosen_.decoder : chosen_.encoder;
      const int layer = layers[static_cast<std::size_t>(place->layer)];
      out.emplace(LayerNames::in_layer(*place, layer), use[i]);
    }
    return out;
  }

  double state_bytes() const { return start_ - weights_; }
  double numbers() const { return static_cast<double>(delta_.size()); }

 private:
  // What a cache would give the step, unless a run would refuse it; its bytes.
  double make_features_of(std::span<const Sample> samples) {
    if (!why_no_features(*backbone_).empty()) return 0;
    const BackboneInput in = task_->collate(samples, backbone_->config());
    features_ = make_features(*backbone_, in, [&] { loss(in, {}); });
    double numbers = 0;
    for (const Features& f : features_) {
      numbers += static_cast<double>(f.values.size());
    }
    return numbers * sizeof(std::uint16_t);
  }

  at::Tensor loss(const BackboneInput& in, ForwardContext ctx) {
    ctx.tasks = in.tasks;
    return task_->loss(*backbone_, in, ctx).sum;
  }

  at::Tensor forward(std::span<const Sample> samples) {
    BackboneInput in = task_->collate(samples, backbone_->config());
    if (!features_.empty()) {
      std::vector<const Features*> each;
      for (const Features& f : features_) each.push_back(&f);
      give_features(*backbone_, each, in);
    }
    ForwardContext ctx;
    ctx.training = true;
    ctx.seed = config_.train.seed;
    return loss(in, ctx);
  }

  void mark_encoder_end(StepMemory& memory) {
    if (backbone_->config().decoder_layers == 0) return;
    int last = -1;
    const auto& sites = backbone_->sites();
    for (std::size_t i = 0; i < sites.size(); ++i) {
      if (sites[i].kind == SiteKind::kTap && sites[i].role == Role::kNone &&
          sites[i].layer >= 0 && sites[i].stack == Stack::kEncoder) {
        last = static_cast<int>(i);
      }
    }
    if (last >= 0)
      backbone_->attach(last, std::make_shared<EncoderEnd>(memory));
  }

  const RunConfig& config_;
  std::unique_ptr<Task> task_;
  const ChosenLayers& chosen_;
  std::unique_ptr<Backbone> backbone_;
  std::vector<std::unique_ptr<Method>> methods_;
  Delta delta_;
  std::optional<Optimizer> optimizer_;
  std::vector<Features> features_;
  double weights_ = 0, start_ = 0;  // bytes alive, without and with states
};

}  // namespace

double StepMemory::most() const { return *std::ranges::max_element(peak); }

Probe probe_step(const RunConfig& config, const Backbone& full,
                 const Delta& delta, std::span<const Sample> samples,
                 const ChosenLayers& chosen, bool count_sites) {
  Trial trial(config, full, delta, chosen);
  Probe probe;
  probe.step = trial.step(samples);
  if (count_sites) probe.sites = trial.uses(samples);
  probe.state_bytes = trial.state_bytes();
  probe.numbers = trial.numbers();
  return probe;
}

}  // namespace thinwire
