// HyperFormer and HyperFormer++: adapters and their layer norms are generated,
// for each task and layer, by hypernetworks that all tasks and layers share.
// Karimi Mahabadi et al. 2021, "Parameter-efficient multi-task fine-tuning for
// transformers via shared hypernetworks", secs. 2.2 to 2.4, as released:
//   e = LN(W2 relu(W1 [z_task; l_layer; t_sublayer] + b1) + b2)
//   W_down = view(G e + g) [m, d], W_up [d, m], biases and the norm's gain and
//   shift alike; u becomes u + norm(up(gelu(down(u))))
// plus_plus: one set of generators for both sublayers, which t tells apart;
// else one for each, and no t. The stacks of an encoder-decoder have their own
// generators and share the task embeddings z. No adapter after cross-attention.
// Generators start with std 0.01, so the branch starts at some 0.08 of its
// size: near the backbone. Names are those of the released code, misspelling
// included.
// Shapes: z, l, t, e [task_dim]; T rows; d model width, m bottleneck.
#include <ATen/ops/cat.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <set>

#include "base/error.h"
#include "ops/norm.h"
#include "peft/method_tools.h"
#include "peft/task_rows.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    kTasksField,
    {"plus_plus", FieldType::kBool, "true",
     "HyperFormer++: one set of generators for both sublayers"},
    {"bottleneck", FieldType::kInt, "~", "width m of the adapters"},
    {"reduction_factor", FieldType::kFloat, "32",
     "where bottleneck is ~: m = model width / factor"},
    {"task_dim", FieldType::kInt, "64", "width of all embeddings"},
    {"hidden_dim", FieldType::kInt, "128", "of the network that makes e"},
    {"init_std", FieldType::kFloat, "0.01", "of the generators"},
    {"layer_norms", FieldType::kBool, "true", "the layer norms train too"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kTasks[] = "task_embedding_controller.task_to_embeddings";
constexpr double kTaskEpsilon = 1e-6, kAdapterEpsilon = 1e-5;

struct Names {
  explicit Names(const Site& site)
      : net(std::string(site.stack == Stack::kEncoder ? "encoder" : "decoder") +
            ".adapter_layers_hyper_net."),
        layers(net + "layer_id_embeddings.weight"),
        types(net + "adapters_block_type.weight"),
        inner(net + "task_hypernet.task_embeding_generator.0."),
        outer(net + "task_hypernet.task_embeding_generator.2."),
        norm(net + "LayerNorm.") {}

  // Of the linear layer that makes a part of an adapter.
  std::string generator(const Site& site, bool plus_plus,
                        const char* part) const {
    if (plus_plus) return net + part + ".";
    return net +
           (site.role == Role::kFeedForward ? "feed_forward_"
                                            : "self_attention_") +
           part + ".";
  }

  std::string net, layers, types, inner, outer, norm;
};

// Parts of an adapter: names, in the order of their use.
constexpr const char* kDown = "down_sampler_hyper_net.weight_generator.0";
constexpr const char* kDownBias = "down_sampler_hyper_net.bias_generator.0";
constexpr const char* kUp = "up_sampler_hyper_net.weight_generator.0";
constexpr const char* kUpBias = "up_sampler_hyper_net.bias_generator.0";
constexpr const char* kGain = "post_layernorm_hypernet.weight_generator";
constexpr const char* kShift = "post_layernorm_hypernet.bias_generator";

struct Linear {
  Linear(const Delta& delta, const std::string& stem)
      : weight(delta.leaf(stem + "weight")), bias(delta.leaf(stem + "bias")) {}
  at::Tensor operator()(const at::Tensor& x) const {
    return at::linear(x, weight, bias);
  }
  at::Tensor weight, bias;
};

class GeneratedAdapter : public SublayerAttachment {
 public:
  GeneratedAdapter(const Delta& delta, const Site& site, bool plus_plus,
                   std::int64_t tasks, std::int64_t m)
      : GeneratedAdapter(delta, site, Names(site), plus_plus, tasks, m) {}

  at::Tensor adapt(const SublayerState& s, const ForwardContext& ctx) override {
    const TaskRows rows =
        task_rows(ctx, static_cast<std::int64_t>(tasks_.size()), "hyperformer");
    if (rows.present.size() == 1) return adapted(s.u, rows.present.front());
    // The rows of each task, and where they went.
    const auto& offsets = ctx.layout->offsets;
    std::vector<std::int64_t> back(static_cast<std::size_t>(s.u.size(0)));
    std::vector<at::Tensor> parts;
    std::int64_t done = 0;
    for (std::size_t i = 0; i < rows.present.size(); ++i) {
      std::vector<std::int64_t> mine;
      for (std::size_t b = 0; b < rows.of.size(); ++b) {
        if (rows.of[b] != static_cast<std::int64_t>(i)) continue;
        for (std::int64_t r = offsets[b]; r < offsets[b + 1]; ++r) {
          mine.push_back(r);
          back[static_cast<std::size_t>(r)] = done++;
        }
      }
      parts.push_back(
          adapted(s.u.index_select(0, index(mine)), rows.present[i]));
    }
    return at::cat(parts).index_select(0, index(back));
  }

 private:
  GeneratedAdapter(const Delta& delta, const Site& site, const Names& names,
                   bool plus_plus, std::int64_t tasks, std::int64_t m)
      : layer_(delta.leaf(names.layers), site.layer),
        inner_(delta, names.inner),
        outer_(delta, names.outer),
        norm_(delta, names.norm),
        down_(delta, names.generator(site, plus_plus, kDown)),
        down_bias_(delta, names.generator(site, plus_plus, kDownBias)),
        up_(delta, names.generator(site, plus_plus, kUp)),
        up_bias_(delta, names.generator(site, plus_plus, kUpBias)),
        gain_(delta, names.generator(site, plus_plus, kGain)),
        shift_(delta, names.generator(site, plus_plus, kShift)),
        d_(site.d_out),
        m_(m) {
    for (std::int64_t k = 0; k < tasks; ++k) {
      tasks_.push_back(delta.leaf(task_entry(kTasks, k)));
    }
    if (plus_plus) {
      type_.table = delta.leaf(names.types);
      type_.row = site.role == Role::kFeedForward ? 0 : 1;
    }
  }

  at::Tensor index(const std::vector<std::int64_t>& rows) const {
    return at::tensor(rows, at::kLong).to(tasks_.front().device());
  }

  // Generated once for the rows of a task.
  at::Tensor adapted(const at::Tensor& u, std::int64_t task) const {
    std::vector<at::Tensor> about{tasks_[static_cast<std::size_t>(task)],
                                  layer_.table.select(0, layer_.row)};
    if (type_.table.defined()) {
      about.push_back(type_.table.select(0, type_.row));
    }
    const at::Tensor made = outer_(inner_(at::cat(about).unsqueeze(0)).relu());
    const at::Tensor e =
        layer_norm(made, norm_.weight, norm_.bias, kTaskEpsilon);
    const auto vector = [&](const Linear& g) { return g(e).flatten(); };
    const at::Tensor inner = at::gelu(
        at::linear(u, down_(e).view({m_, d_}), vector(down_bias_)), "tanh");
    const at::Tensor out =
        at::linear(inner, up_(e).view({d_, m_}), vector(up_bias_));
    return u.add(
        layer_norm(out, vector(gain_), vector(shift_), kAdapterEpsilon));
  }

  struct Row {
    at::Tensor table;
    std::int64_t row = 0;
  };
  std::vector<at::Tensor> tasks_;
  Row layer_, type_;
  Linear inner_, outer_, norm_;
  Linear down_, down_bias_, up_, up_bias_, gain_, shift_;
  std::int64_t d_, m_;
};

class Hyperformer : public Method {
 public:
  explicit Hyperformer(Config config)
      : config_(std::move(config)),
        tasks_(checked_tasks(config_, "hyperformer")),
        plus_plus_(config_.at("plus_plus").get<bool>()),
        dim_(config_.at("task_dim").get<std::int64_t>()),
        hidden_(config_.at("hidden_dim").get<std::int64_t>()),
        std_(config_.at("init_std").get<double>()) {
    const Config& m = config_.at("bottleneck");
    require(m.is_null() || m.get<std::int64_t>() >= 1, "bottleneck",
            "at least 1");
    require(config_.at("reduction_factor").get<double>() > 0,
            "reduction_factor", "positive");
    require(dim_ >= 1, "task_dim", "at least 1");
    require(hidden_ >= 1, "hidden_dim", "at least 1");
    require(std_ >= 0 && std::isfinite(std_), "init_std", "at least 0");
  }

  std::string_view id() const override { return "hyperformer"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    for (std::int64_t k = 0; k < tasks_; ++k) {
      declare_of_task(
          builder, kTasks, k, tasks_,
          normal_values(task_entry(kTasks, k), {dim_}, 1, context.seed));
    }
    std::set<std::string> declared;
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const Names names(site);
      if (declared.insert(names.net).second) {
        declare_stack(builder, backbone, site, context.seed);
      }
      if (declared.insert(names.generator(site, plus_plus_, "")).second) {
        declare_generators(builder, site, context.seed);
      }
    }
    if (config_.at("layer_norms").get<bool>()) {
      declare_layer_norms(builder, backbone);
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      backbone.attach(number,
                      std::make_shared<GeneratedAdapter>(
                          delta, site, plus_plus_, tasks_, width(site.d_out)));
    }
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "hyperformer: adapters stand between layers and cannot be merged into "
        "weights");
  }

 private:
  void require(bool right, const char* key, const char* what) const {
    if (right) return;
    fail<UsageError>("hyperformer: {} must be {}, got {}", key, what,
                     config_.at(key).dump());
  }

  std::int64_t width(std::int64_t d) const {
    if (!config_.at("bottleneck").is_null()) return config_.at("bottleneck");
    const double factor = config_.at("reduction_factor");
    const auto m = static_cast<std::int64_t>(static_cast<double>(d) / factor);
    if (m >= 1) return m;
    fail<UsageError>(
        "hyperformer: reduction_factor {} leaves nothing of width "
        "{}",
        factor, d);
  }

  void declare_linear(DeltaBuilder& builder, const std::string& stem,
                      std::int64_t in, std::int64_t out,
                      std::uint64_t seed) const {
    const std::string weight = stem + "weight";
    declare_dense(builder, weight,
                  normal_values(weight, {out, in}, std_, seed));
    declare_dense(builder, stem + "bias", at::zeros({out}, at::kFloat));
  }

  // What makes e, for all layers of a stack.
  void declare_stack(DeltaBuilder& builder, const Backbone& backbone,
                     const Site& of, std::uint64_t seed) const {
    const Names names(of);
    std::int64_t layers = 0;
    for (const Site& site : backbone.sites()) {
      if (site.stack == of.stack) {
        layers = std::max<std::int64_t>(layers, site.layer + 1);
      }
    }
    const auto embeddings = [&](const std::string& name, std::int64_t rows) {
      declare_dense(builder, name, normal_values(name, {rows, dim_}, 1, seed));
    };
    embeddings(names.layers, layers);
    if (plus_plus_) embeddings(names.types, 2);
    declare_linear(builder, names.inner, (plus_plus_ ? 3 : 2) * dim_, hidden_,
                   seed);
    declare_linear(builder, names.outer, hidden_, dim_, seed);
    declare_dense(builder, names.norm + "weight", at::ones({dim_}, at::kFloat));
    declare_dense(builder, names.norm + "bias", at::zeros({dim_}, at::kFloat));
  }

  void declare_generators(DeltaBuilder& builder, const Site& site,
                          std::uint64_t seed) const {
    const Names names(site);
    const std::int64_t d = site.d_out, m = width(d);
    const std::pair<const char*, std::int64_t> kParts[] = {
        {kDown, m * d}, {kDownBias, m}, {kUp, d * m},
        {kUpBias, d},   {kGain, d},     {kShift, d}};
    for (const auto& [part, out] : kParts) {
      declare_linear(builder, names.generator(site, plus_plus_, part), dim_,
                     out, seed);
    }
  }

  static std::vector<int> sites(const Backbone& backbone) {
    std::vector<int> out;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind == SiteKind::kSublayer &&
          (site.role == Role::kFeedForward ||
           site.role == Role::kSelfAttention)) {
        out.push_back(static_cast<int>(i));
      }
    }
    return out;
  }

  Config config_;
  std::int64_t tasks_;
  bool plus_plus_;
  std::int64_t dim_, hidden_;
  double std_;
};

}  // namespace

const MethodInfo& hyperformer_method() {
  static const MethodInfo kInfo = {
      "hyperformer",
      "adapters generated for each task and layer (Karimi Mahabadi et al. "
      "2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Hyperformer>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
