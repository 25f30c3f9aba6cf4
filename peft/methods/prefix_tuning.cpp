// Prefix tuning: every attention sees `length` more keys and values, the same
// for all examples, already projected.
// Li & Liang 2021, "Prefix-tuning: Optimizing continuous prompts for
// generation", secs. 4.2 and 4.3. Each kind of attention (encoder, decoder,
// cross) has prefixes of its own. reparametrise: they are computed from an
// embedding [length, d] by a two-layer perceptron, whose second layer is here
// one matrix per layer; else they train directly.
// The prefix has no positions: the text's do not shift, and T5's relative bias
// is 0 on it. HF peft puts it into the cache of keys and values, behind which
// absolute positions begin: shift_positions. Prefix dropout acts on keys and
// values. Not the backbone at step 0: a key of zeros still takes its share of
// the softmax.
// Shapes: keys and values [length, I], I = heads * head width.
#include <ATen/ops/empty.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "base/random.h"
#include "ops/dropout.h"
#include "peft/method_tools.h"
#include "peft/prefix_entries.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"length", FieldType::kInt, "20", "keys and values per attention"},
    {"encoder", FieldType::kBool, "true", "at the encoder's self-attention"},
    {"decoder", FieldType::kBool, "true", "at the decoder's self-attention"},
    {"cross", FieldType::kBool, "true", "at cross-attention"},
    {"reparametrise", FieldType::kBool, "true",
     "train a perceptron that makes them; false: themselves"},
    {"bottleneck", FieldType::kInt, "512", "width of that perceptron"},
    {"init_std", FieldType::kFloat, "0.02",
     "of prefixes that train themselves"},
    {"dropout", FieldType::kFloat, "0", "of the prefixes"},
    {"shift_positions", FieldType::kBool, "false",
     "the text's positions begin behind the prefix, as HF peft has them"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

using KeysValues = std::pair<at::Tensor, at::Tensor>;

class Prefix : public AttentionAttachment {
 public:
  Prefix(PrefixLeaves leaves, const Site& site, double dropout)
      : leaves_(std::move(leaves)),
        dropout_(dropout),
        site_(dropout_site(PrefixNames(site).layer + "dropout")) {}

  KeysValues extra_keys_values(const ForwardContext& ctx) override {
    const KeysValues made = leaves_.keys_values();
    if (!ctx.training || dropout_ == 0) return made;
    const std::int64_t length = made.first.size(0);
    if (rows_.offsets.empty()) rows_ = make_layout({length}, {0});
    const auto drop = [&](const at::Tensor& x, std::uint32_t other) {
      return thinwire::dropout(x, dropout_, ctx.dropout_key(site_ + other),
                               rows_);
    };
    return {drop(made.first, 0), drop(made.second, 1)};
  }

 private:
  PrefixLeaves leaves_;
  double dropout_;
  std::uint32_t site_;
  Layout rows_;  // of no sample: all examples drop the same
};

// The text's positions begin behind the prefix.
class Shift : public EmbeddingAttachment {
 public:
  explicit Shift(std::int64_t length) : length_(length) {}
  std::int64_t rows() const override { return 0; }
  std::int64_t free_positions() const override { return length_; }
  at::Tensor vectors(const at::Tensor&, const ForwardContext&) override {
    return {};
  }

 private:
  std::int64_t length_;
};

class PrefixTuning : public Method {
 public:
  explicit PrefixTuning(Config config)
      : config_(std::move(config)),
        length_(config_.at("length").get<std::int64_t>()),
        bottleneck_(config_.at("bottleneck").get<std::int64_t>()),
        std_(config_.at("init_std").get<double>()),
        dropout_(config_.at("dropout").get<double>()),
        reparametrise_(config_.at("reparametrise").get<bool>()),
        shift_positions_(config_.at("shift_positions").get<bool>()) {
    require(length_ >= 1, "length", "at least 1");
    require(bottleneck_ >= 1, "bottleneck", "at least 1");
    require(std_ >= 0 && std::isfinite(std_), "init_std", "at least 0");
    require(dropout_ >= 0 && dropout_ < 1, "dropout", "in [0, 1)");
  }

  std::string_view id() const override { return "prefix_tuning"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    check_positions(backbone);
    std::set<std::string> declared;
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const PrefixNames names(site);
      const std::int64_t d = backbone.config().d_model, width = site.d_out;
      if (!reparametrise_) {
        declare_normal(builder, names.keys(), {length_, width}, std_, context);
        declare_normal(builder, names.values(), {length_, width}, std_,
                       context);
        continue;
      }
      if (declared.insert(names.group).second) {
        declare_normal(builder, names.embedding(), {length_, d}, 1, context);
        declare_linear(builder, names.inner(), d, bottleneck_, context);
      }
      declare_linear(builder, names.outer(), bottleneck_, 2 * width, context);
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(number, std::make_shared<Prefix>(
                                  PrefixLeaves(delta, site, reparametrise_),
                                  site, dropout_));
    }
    if (!shift_positions_) return;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind != SiteKind::kEmbedding) continue;
      backbone.attach(static_cast<int>(i), std::make_shared<Shift>(length_));
    }
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "prefix_tuning: prefixes are no change of weights and cannot be "
        "merged");
  }

 private:
  void require(bool right, const char* key, const char* what) const {
    if (right) return;
    fail<UsageError>("prefix_tuning: {} must be {}, got {}", key, what,
                     config_.at(key).dump());
  }

  void check_positions(const Backbone& backbone) const {
    const std::int64_t most = backbone.config().max_positions;
    if (!shift_positions_ || most == 0 || length_ < most) return;
    fail<UsageError>(
        "prefix_tuning: shift_positions with a length of {} leaves no position "
        "for text: this {} has {}",
        length_, backbone.config().architecture, most);
  }

  static void declare_normal(DeltaBuilder& builder, const std::string& name,
                             const std::vector<std::int64_t>& shape, double std,
                             const DeclareContext& context) {
    declare_dense(builder, name, normal_values(name, shape, std, context.seed));
  }

  // As the reference code leaves a linear layer: uniform by its inputs.
  static void declare_linear(DeltaBuilder& builder, const std::string& stem,
                             std::int64_t in, std::int64_t out,
                             const DeclareContext& context) {
    const double bound = 1 / std::sqrt(static_cast<double>(in));
    const auto declare = [&](const std::string& name,
                             const std::vector<std::int64_t>& shape) {
      declare_dense(builder, name,
                    uniform_values(name, shape, bound, context.seed));
    };
    declare(stem + "weight", {out, in});
    declare(stem + "bias", {out});
  }

  std::vector<int> sites(const Backbone& backbone) const {
    const auto takes = [&](const Site& site) {
      const char* key = site.role == Role::kCrossAttention ? "cross"
                        : site.stack == Stack::kEncoder    ? "encoder"
                                                           : "decoder";
      return config_.at(key).get<bool>();
    };
    std::vector<int> out;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind == SiteKind::kAttention && takes(site)) {
        out.push_back(static_cast<int>(i));
      }
    }
    if (out.empty()) {
      fail<UsageError>(
          "prefix_tuning: encoder, decoder and cross leave no attention of "
          "this {}",
          backbone.config().architecture);
    }
    return out;
  }

  Config config_;
  std::int64_t length_, bottleneck_;
  double std_, dropout_;
  bool reparametrise_, shift_positions_;
};

}  // namespace

const MethodInfo& prefix_tuning_method() {
  static const MethodInfo kInfo = {
      "prefix_tuning", "keys and values for every attention (Li & Liang 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<PrefixTuning>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
