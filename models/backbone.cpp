#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "models/backbone.h"

#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <filesystem>
#include <span>

#include "base/error.h"
#include "base/nearest.h"
#include "models/architectures.h"
#include "ops/linear.h"
#include "ops/reference.h"

namespace thinwire {

at::Tensor BackboneOutput::token_states() const {
  return token_rows.defined()
             ? hidden.index_select(0, beside(token_rows, hidden))
             : hidden;
}

int Backbone::find_site(SiteKind kind, std::string_view name) const {
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i].kind == kind && sites_[i].name == name) {
      return static_cast<int>(i);
    }
  }
  return -1;
}

int Backbone::add_site(Site site) {
  THINWIRE_ASSERT(find_site(site.kind, site.name) < 0, "site '{}' exists",
                  site.name);
  sites_.push_back(std::move(site));
  attachments_.emplace_back();
  return static_cast<int>(sites_.size()) - 1;
}

Backbone::Attachments& Backbone::site_of_kind(int site, SiteKind kind) {
  THINWIRE_ASSERT(site >= 0 && site < static_cast<int>(sites_.size()),
                  "site {} of {}", site, sites_.size());
  const Site& s = sites_[static_cast<std::size_t>(site)];
  THINWIRE_ASSERT(s.kind == kind, "site '{}' is of kind {}, not {}", s.name,
                  static_cast<int>(s.kind), static_cast<int>(kind));
  return attachments_[static_cast<std::size_t>(site)];
}

void Backbone::attach(int site, std::shared_ptr<LinearAttachment> a) {
  site_of_kind(site, SiteKind::kLinear).linear.push_back(std::move(a));
}
void Backbone::attach(int site, std::shared_ptr<SublayerAttachment> a) {
  site_of_kind(site, SiteKind::kSublayer).sublayer.push_back(std::move(a));
}
void Backbone::attach(int site, std::shared_ptr<AttentionAttachment> a) {
  site_of_kind(site, SiteKind::kAttention).attention.push_back(std::move(a));
}
void Backbone::attach(int site, std::shared_ptr<EmbeddingAttachment> a) {
  site_of_kind(site, SiteKind::kEmbedding).embedding.push_back(std::move(a));
}
void Backbone::attach(int site, std::shared_ptr<TapAttachment> a) {
  site_of_kind(site, SiteKind::kTap).tap.push_back(std::move(a));
}

void Backbone::attach(std::shared_ptr<SideNetwork> network) {
  if (side_ != nullptr) {
    fail<UsageError>("two networks want to run beside one {}; keep one of them",
                     config_.architecture);
  }
  side_ = std::move(network);
}

void Backbone::detach_all() {
  side_ = nullptr;
  for (auto& a : attachments_) a = {};
}

std::string Backbone::moved_by() const {
  const auto behind = [](const Site& s) {
    return s.role == Role::kHead || s.role == Role::kPooler;
  };
  std::vector<bool> spared(static_cast<std::size_t>(parameters_.size()));
  const auto mark = [&](int slot, bool value) {
    if (slot >= 0) spared[static_cast<std::size_t>(slot)] = value;
  };
  const auto mark_all = [&](const Site& s, bool value) {
    for (const int slot : {s.weight, s.bias, s.norm_weight, s.norm_bias}) {
      mark(slot, value);
    }
  };
  for (const Site& s : sites_) {
    if (behind(s)) mark_all(s, true);
  }
  for (const Site& s : sites_) {  // a tied table is the embeddings' too
    if (!behind(s)) mark_all(s, false);
  }
  for (int i = 0; i < parameters_.size(); ++i) {
    const Parameters::Slot& slot = parameters_.slot(i);
    if (parameters_.trains(i) && !slot.head &&
        !spared[static_cast<std::size_t>(i)]) {
      return fmt::format("the trained '{}'", slot.name);
    }
  }
  for (std::size_t i = 0; i < sites_.size(); ++i) {
    const Attachments& a = attachments_[i];
    if (behind(sites_[i]) ||
        (a.linear.empty() && a.sublayer.empty() && a.attention.empty() &&
         a.embedding.empty() && a.tap.empty())) {
      continue;
    }
    return fmt::format("what is attached at '{}'", sites_[i].name);
  }
  return "";
}

int Backbone::add_head_linear(std::string name, int weight, int bias,
                              std::int64_t d_in, std::int64_t d_out) {
  return add_site({.name = std::move(name),
                   .kind = SiteKind::kLinear,
                   .stack = config_.decoder_layers > 0 || config_.decoder_only
                                ? Stack::kDecoder
                                : Stack::kEncoder,
                   .role = Role::kHead,
                   .layer = -1,
                   .d_in = d_in,
                   .d_out = d_out,
                   .weight = weight,
                   .bias = bias});
}

at::Tensor Backbone::linear(int site, const at::Tensor& x,
                            const ForwardContext& ctx) {
  const Site& s = sites_[static_cast<std::size_t>(site)];
  const Parameters::Use weight = parameters_.use(s.weight, ctx);
  Parameters::Use bias;
  if (s.bias >= 0) bias = parameters_.use(s.bias, ctx);
  at::Tensor in = x, more = bias.tensor;
  LowRank low_rank;
  const LinearAttachment* fused = nullptr;
  const auto& attachments = at_site(site).linear;
  for (const auto& a : attachments) {
    if (const at::Tensor scale = a->scale_in(ctx); scale.defined()) {
      in = in.mul(scale);
    }
    if (const at::Tensor b = a->bias(ctx); b.defined()) {
      more = more.defined() ? more.add(b) : b;
    }
  }
  // Paths read x as it came, W may read it scaled.
  for (const auto& a : attachments) {
    if (!in.is_same(x) || fused != nullptr) break;
    low_rank = a->low_rank(ctx);
    if (low_rank.a.defined()) fused = a.get();
  }
  at::Tensor change;
  for (const auto& a : attachments) {
    if (const at::Tensor c = a->weight_change(ctx); c.defined()) {
      change = change.defined() ? change.add(c) : c;
    }
  }
  // A narrow W rounds its x, which the change does not.
  const bool along = change.defined() && in.is_same(x) &&
                     weight.tensor.scalar_type() == at::kFloat;
  // out_in() turns there as it does back.
  const at::Tensor matrix =
      along ? weight.tensor.add(out_in(change, weight.axes)) : weight.tensor;
  at::Tensor y =
      thinwire::linear(in, matrix, more, low_rank, weight.scale, weight.axes);
  if (weight.watch != nullptr) {
    const at::ScalarType rounded =
        weight.scale.defined() ? at::kBFloat16 : weight.tensor.scalar_type();
    y = weight.watch->product(y, in, rounded, *ctx.layout, weight.axes);
  }
  if (bias.watch != nullptr) y = bias.watch->added(y, *ctx.layout);
  if (change.defined() && !along) y = y.add(thinwire::linear(x, change));
  for (const auto& a : attachments) {
    if (a.get() == fused) continue;
    if (const at::Tensor path = a->path(x, ctx); path.defined()) {
      y = y.add(path);
    }
  }
  for (const auto& a : attachments) {
    if (const at::Tensor scale = a->scale_out(ctx); scale.defined()) {
      y = y.mul(scale);
    }
  }
  return y;
}

Layout pooled_layout(const Layout& layout) {
  Layout pooled;
  const std::int64_t batch = layout.batch();
  for (std::int64_t b = 0; b <= batch; ++b) pooled.offsets.push_back(b);
  pooled.positions = at::zeros({batch}, at::TensorOptions().dtype(at::kLong));
  pooled.samples = layout.samples.index_select(
      0, at::tensor(at::ArrayRef<std::int64_t>(layout.offsets).slice(0, batch),
                    at::kLong));
  pooled.max_length = 1;
  return pooled;
}

namespace {

struct Architecture {
  const char* name;
  const char* prefix;  // of the names that base-model checkpoints leave out
  std::unique_ptr<Backbone> (*make)(const ModelConfig&, TensorSource&);
};
constexpr Architecture kArchitectures[] = {
    {"bart", "model", &make_bart},
    {"bert", "bert", &make_bert},
    {"gpt2", "transformer", &make_gpt2},
    {"roberta", "roberta", &make_bert},
    {"t5", "transformer", &make_t5},
};

const Architecture& find_architecture(const std::string& name) {
  for (const auto& a : kArchitectures) {
    if (name == a.name) return a;
  }
  fail<UsageError>("model_type '{}' is unknown; choose one of: {}", name,
                   list_nearest_first(name, backbone_names()));
}

}  // namespace

std::unique_ptr<Backbone> make_backbone(const ModelConfig& config,
                                        TensorSource& source) {
  return find_architecture(config.architecture).make(config, source);
}

std::unique_ptr<TensorSource> open_weights(const std::string& folder,
                                           const ModelConfig& config) {
  return open_hf_folder(folder, find_architecture(config.architecture).prefix);
}

std::unique_ptr<Backbone> load_backbone(const std::string& folder) {
  const ModelConfig config =
      read_model_config((std::filesystem::path(folder) / "config.json"));
  return make_backbone(config, *open_weights(folder, config));
}

std::unique_ptr<Backbone> random_backbone(const std::string& config_json,
                                          std::uint64_t seed) {
  return make_backbone(read_model_config(config_json), *random_source(seed));
}

std::vector<std::string> backbone_names() {
  std::vector<std::string> names;
  for (const auto& a : kArchitectures) names.emplace_back(a.name);
  return names;
}

}  // namespace thinwire
