// HyperPrompt: each task's prompt becomes, in every encoder layer, keys and
// values that the self-attention of that task's examples sees.
// He et al. 2022, "HyperPrompt: Prompt-based task-conditioning of
// transformers", secs. 3.1 to 3.3; no code was released.
//   keys_lI = U_K relu(D_K P_task), values alike
// share: D and U of each layer for all tasks; sep: of each layer and task;
// global: of all layers and tasks, generated from I = h([k_task; z_layer]),
// D = view(W_D I), U = view(W_U I), h two linear layers without biases.
// The prompts have no positions: T5's relative bias is 0 on them. The paper
// trains the backbone too: that is this method with `full` beside it; alone it
// is the paper's frozen backbone. Not the backbone at step 0: a key of zeros
// still takes its share of the softmax. The paper gives no initial values:
// prompts and embeddings start normal, D and U (share, sep) and h by Glorot,
// what generates D and U with init_std.
// Shapes: P [length, d], D [b, d], U [I, b], I = heads * head width.
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/stack.h>

#include <cmath>

#include "base/error.h"
#include "peft/method_tools.h"
#include "peft/task_rows.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    kTasksField,
    {"variant", FieldType::kString, "global", "global, share or sep"},
    {"length", FieldType::kInt, "16", "vectors of a task's prompt"},
    {"bottleneck", FieldType::kInt, "~", "width b of D and U"},
    {"reduction_factor", FieldType::kFloat, "32",
     "where bottleneck is ~: b = model width / factor"},
    {"embedding_dim", FieldType::kInt, "64",
     "global: of task and layer embeddings, t'"},
    {"hidden_dim", FieldType::kInt, "64", "global: inside h, e"},
    {"layer_dim", FieldType::kInt, "64", "global: of what h makes, t"},
    {"init_std", FieldType::kFloat, "0.02",
     "global: of what generates D and U"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kPrompts[] = "hyperprompt.prompts";
constexpr char kTaskEmbeddings[] = "hyperprompt.task_embeddings";
constexpr char kLayerEmbeddings[] = "hyperprompt.layer_embeddings.weight";
constexpr char kInner[] = "hyperprompt.embedding_generator.0.weight";
constexpr char kOuter[] = "hyperprompt.embedding_generator.2.weight";

enum class Variant { kGlobal, kShare, kSep };

// The four maps of a layer, or what generates them.
constexpr const char* kMaps[] = {"key_down", "key_up", "value_down",
                                 "value_up"};

class TaskPrompts : public AttentionAttachment {
 public:
  struct Shape {
    std::int64_t tasks, d, inner, b;
  };
  struct Global {
    at::Tensor layers;  // [layers, t'], of which this is row
    std::int64_t layer = 0;
    at::Tensor inner, outer;
    std::vector<at::Tensor> tasks;       // [t']
    std::vector<at::Tensor> generators;  // as kMaps
  };
  // maps: of each task, as kMaps; none with `global`.
  TaskPrompts(const Shape& shape, std::vector<at::Tensor> prompts,
              std::vector<std::vector<at::Tensor>> maps, Global global)
      : is_(shape),
        prompts_(std::move(prompts)),
        maps_(std::move(maps)),
        global_(std::move(global)) {}

  std::pair<at::Tensor, at::Tensor> extra_keys_values(
      const ForwardContext& ctx) override {
    const TaskRows rows = task_rows(ctx, is_.tasks, "hyperprompt");
    std::vector<at::Tensor> keys, values;
    for (const std::int64_t task : rows.present) {
      const at::Tensor& p = prompts_[static_cast<std::size_t>(task)];
      const std::vector<at::Tensor> m = maps(task);
      keys.push_back(at::linear(at::linear(p, m[0]).relu(), m[1]));
      values.push_back(at::linear(at::linear(p, m[2]).relu(), m[3]));
    }
    if (keys.size() == 1) return {keys.front(), values.front()};
    return {by_sequence(keys, rows), by_sequence(values, rows)};
  }

 private:
  std::vector<at::Tensor> maps(std::int64_t task) const {
    const auto k = static_cast<std::size_t>(task);
    if (!maps_.empty()) return maps_[k];
    const at::Tensor about =
        at::cat({global_.tasks[k], global_.layers.select(0, global_.layer)})
            .unsqueeze(0);
    const at::Tensor i_t =
        at::linear(at::linear(about, global_.inner).relu(), global_.outer);
    std::vector<at::Tensor> out;
    for (std::size_t i = 0; i < 4; ++i) {
      const bool down = i % 2 == 0;
      out.push_back(
          at::linear(i_t, global_.generators[i])
              .view({down ? is_.b : is_.inner, down ? is_.d : is_.b}));
    }
    return out;
  }

  Shape is_;
  std::vector<at::Tensor> prompts_;
  std::vector<std::vector<at::Tensor>> maps_;
  Global global_;
};

class Hyperprompt : public Method {
 public:
  explicit Hyperprompt(Config config)
      : config_(std::move(config)),
        tasks_(checked_tasks(config_, "hyperprompt")),
        length_(whole("length")),
        embedding_(whole("embedding_dim")),
        hidden_(whole("hidden_dim")),
        layer_dim_(whole("layer_dim")),
        std_(config_.at("init_std").get<double>()) {
    const std::string variant = config_.at("variant");
    require(variant == "global" || variant == "share" || variant == "sep",
            "variant", "global, share or sep");
    variant_ = variant == "global"  ? Variant::kGlobal
               : variant == "share" ? Variant::kShare
                                    : Variant::kSep;
    if (!config_.at("bottleneck").is_null()) whole("bottleneck");
    require(config_.at("reduction_factor").get<double>() > 0,
            "reduction_factor", "positive");
    require(std_ >= 0 && std::isfinite(std_), "init_std", "at least 0");
  }

  std::string_view id() const override { return "hyperprompt"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    const std::int64_t d = backbone.config().d_model;
    for (std::int64_t k = 0; k < tasks_; ++k) {
      declare_of_task(builder, kPrompts, k, tasks_,
                      normal_values(task_entry(kPrompts, k), {length_, d}, 1,
                                    context.seed));
    }
    const std::vector<int> numbers = sites(backbone);
    if (variant_ == Variant::kGlobal) {
      declare_global(builder, backbone, numbers, context.seed);
    } else {
      for (const int number : numbers) {
        const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
        declare_layer(builder, d, site, context.seed);
      }
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    for (const int number : sites(backbone)) {
      const Site& site = backbone.sites()[static_cast<std::size_t>(number)];
      const std::int64_t d = backbone.config().d_model;
      std::vector<at::Tensor> prompts;
      for (std::int64_t k = 0; k < tasks_; ++k) {
        prompts.push_back(delta.leaf(task_entry(kPrompts, k)));
      }
      const bool global = variant_ == Variant::kGlobal;
      backbone.attach(
          number,
          std::make_shared<TaskPrompts>(
              TaskPrompts::Shape{tasks_, d, site.d_out, width(d)},
              std::move(prompts),
              global ? std::vector<std::vector<at::Tensor>>()
                     : read_maps(delta, site),
              global ? read_global(delta, site) : TaskPrompts::Global()));
    }
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "hyperprompt: prompts are no change of weights and cannot be merged");
  }

 private:
  void require(bool right, const char* key, const char* what) const {
    if (right) return;
    fail<UsageError>("hyperprompt: {} must be {}, got {}", key, what,
                     config_.at(key).dump());
  }

  std::int64_t whole(const char* key) const {
    const auto value = config_.at(key).get<std::int64_t>();
    require(value >= 1, key, "at least 1");
    return value;
  }

  std::int64_t width(std::int64_t d) const {
    if (!config_.at("bottleneck").is_null()) return config_.at("bottleneck");
    const double factor = config_.at("reduction_factor");
    const auto b = static_cast<std::int64_t>(static_cast<double>(d) / factor);
    if (b >= 1) return b;
    fail<UsageError>(
        "hyperprompt: reduction_factor {} leaves nothing of width {}", factor,
        d);
  }

  static at::Tensor glorot(const std::string& name, std::int64_t out,
                           std::int64_t in, std::uint64_t seed) {
    const double bound = std::sqrt(6 / static_cast<double>(in + out));
    return uniform_values(name, {out, in}, bound, seed);
  }

  static std::string layer_stem(const Site& site, const char* map) {
    return fmt::format("hyperprompt.layers.{}.{}", site.layer, map);
  }

  void declare_layer(DeltaBuilder& builder, std::int64_t d, const Site& site,
                     std::uint64_t seed) const {
    const std::int64_t b = width(d);
    for (int i = 0; i < 4; ++i) {
      const std::string stem = layer_stem(site, kMaps[i]);
      const std::int64_t out = i % 2 == 0 ? b : site.d_out,
                         in = i % 2 == 0 ? d : b;
      if (variant_ == Variant::kShare) {
        declare_dense(builder, stem, glorot(stem, out, in, seed));
        continue;
      }
      for (std::int64_t k = 0; k < tasks_; ++k) {
        declare_of_task(builder, stem, k, tasks_,
                        glorot(task_entry(stem, k), out, in, seed));
      }
    }
  }

  void declare_global(DeltaBuilder& builder, const Backbone& backbone,
                      const std::vector<int>& numbers,
                      std::uint64_t seed) const {
    const auto normal = [&](const std::string& name, std::int64_t rows,
                            std::int64_t columns, double std) {
      declare_dense(builder, name,
                    normal_values(name, {rows, columns}, std, seed));
    };
    for (std::int64_t k = 0; k < tasks_; ++k) {
      declare_of_task(
          builder, kTaskEmbeddings, k, tasks_,
          normal_values(task_entry(kTaskEmbeddings, k), {embedding_}, 1, seed));
    }
    normal(kLayerEmbeddings, static_cast<std::int64_t>(numbers.size()),
           embedding_, 1);
    declare_dense(builder, kInner,
                  glorot(kInner, hidden_, 2 * embedding_, seed));
    declare_dense(builder, kOuter, glorot(kOuter, layer_dim_, hidden_, seed));
    const std::int64_t d = backbone.config().d_model, b = width(d);
    const std::int64_t inner =
        backbone.sites()[static_cast<std::size_t>(numbers.front())].d_out;
    for (int i = 0; i < 4; ++i) {
      normal(generator(kMaps[i]), i % 2 == 0 ? b * d : inner * b, layer_dim_,
             std_);
    }
  }

  static std::string generator(const char* map) {
    return fmt::format("hyperprompt.generators.{}.weight", map);
  }

  std::vector<std::vector<at::Tensor>> read_maps(const Delta& delta,
                                                 const Site& site) const {
    std::vector<std::vector<at::Tensor>> out;
    for (std::int64_t k = 0; k < tasks_; ++k) {
      std::vector<at::Tensor>& maps = out.emplace_back();
      for (const char* map : kMaps) {
        const std::string stem = layer_stem(site, map);
        maps.push_back(delta.leaf(
            variant_ == Variant::kShare ? stem : task_entry(stem, k)));
      }
    }
    return out;
  }

  TaskPrompts::Global read_global(const Delta& delta, const Site& site) const {
    TaskPrompts::Global out;
    out.layers = delta.leaf(kLayerEmbeddings);
    out.layer = site.layer;
    out.inner = delta.leaf(kInner);
    out.outer = delta.leaf(kOuter);
    for (std::int64_t k = 0; k < tasks_; ++k) {
      out.tasks.push_back(delta.leaf(task_entry(kTaskEmbeddings, k)));
    }
    for (const char* map : kMaps) {
      out.generators.push_back(delta.leaf(generator(map)));
    }
    return out;
  }

  // The encoder's self-attentions, or those of the only stack.
  static std::vector<int> sites(const Backbone& backbone) {
    const Stack stack =
        backbone.config().decoder_only ? Stack::kDecoder : Stack::kEncoder;
    std::vector<int> out;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind == SiteKind::kAttention && site.stack == stack &&
          site.role == Role::kSelfAttention) {
        out.push_back(static_cast<int>(i));
      }
    }
    return out;
  }

  Config config_;
  std::int64_t tasks_, length_, embedding_, hidden_, layer_dim_;
  double std_;
  Variant variant_ = Variant::kGlobal;
};

}  // namespace

const MethodInfo& hyperprompt_method() {
  static const MethodInfo kInfo = {
      "hyperprompt",
      "keys and values of each task for the encoder (He et al. 2022)", kFields,
      [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Hyperprompt>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
