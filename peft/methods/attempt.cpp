// ATTEMPT: the prompt of an example is a mixture, by attention over them, of
// frozen source prompts and its task's own prompt, which trains.
// Asai et al. 2022, "ATTEMPT: Parameter-efficient multi-task tuning via
// attentional mixtures of soft prompts", secs. 3.2 and 3.3:
//   x_Bd = max over the example's embeddings, p_jd = max over the rows of P_j
//   h_Bd = LN(W_up silu(W_down x)), a_Bj = softmax_j(p_j h / temperature)
//   prompt_Bld = P_T + sum over sources and T of a_j P_j
// One attention net for all tasks, one P_T for each. As in the paper's count
// the net's layer norm trains, which the released code leaves out (train_norm);
// the pool reads what is there, where that code reads padding too
// (pool_padding). Target prompts start as the first source. Packed sequences
// pool each for itself. Not the backbone at step 0. Names are those of the
// released code.
// Shapes: P [length, d], W_down [bottleneck, d], W_up [d, bottleneck].
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "ops/norm.h"
#include "peft/delta_file.h"
#include "peft/method_tools.h"
#include "peft/task_rows.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"length", FieldType::kInt, "100", "vectors of a prompt"},
    kTasksField,
    {"sources", FieldType::kStrings, "~",
     "delta files of prompt_tuning: the source prompts"},
    {"random_sources", FieldType::kInt, "0",
     "instead: so many drawn uniform in [-0.5, 0.5)"},
    {"source_seed", FieldType::kInt, "1", "of random_sources"},
    {"bottleneck", FieldType::kInt, "100", "width of the attention net"},
    {"temperature", FieldType::kFloat, "~",
     "scores are divided by it (~: model width times e)"},
    {"pool_padding", FieldType::kBool, "false",
     "the pad token takes part in every pool, as where inputs are padded"},
    {"train_norm", FieldType::kBool, "true",
     "the attention net's layer norm trains"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kTargets[] = "prefix_shared";
constexpr char kSources[] = "mul_prefix_emb";  // constant [t, length, d]
constexpr char kDown[] = "encoder.attn_W_down.weight";
constexpr char kUp[] = "encoder.attn_W_up.weight";
constexpr char kNorm[] = "encoder.layer_norm.weight";
constexpr char kNormBias[] = "encoder.layer_norm.bias";
constexpr double kEpsilon = 1e-5;

at::Tensor max_over_rows(const at::Tensor& x) { return std::get<0>(x.max(0)); }

class Mixture : public EmbeddingAttachment {
 public:
  struct Parts {
    std::vector<at::Tensor> targets;  // [length, d] of each task
    at::Tensor sources;               // [t, length, d]
    at::Tensor down, up, norm, norm_bias;
    at::Tensor padding;  // [d] takes part in pools, or undefined
    double temperature = 1;
  };
  Mixture(Parts parts, std::int64_t at) : p_(std::move(parts)), at_(at) {
    for (const at::Tensor& source : p_.sources.unbind()) {
      pooled_sources_.push_back(max_over_rows(source));
    }
  }

  std::int64_t rows() const override { return p_.sources.size(1); }
  std::int64_t insert_at() const override { return at_; }
  at::Tensor vectors(const at::Tensor& embeddings,
                     const ForwardContext& ctx) override {
    const TaskRows rows =
        task_rows(ctx, static_cast<std::int64_t>(p_.targets.size()), "attempt");
    std::vector<at::Tensor> targets, keys;
    for (const std::int64_t task : rows.present) {
      targets.push_back(p_.targets[static_cast<std::size_t>(task)]);
      keys.push_back(max_over_rows(targets.back()));
    }
    const at::Tensor inner =
        at::silu(at::linear(pool(embeddings, *ctx.layout), p_.down));
    const at::Tensor h =
        layer_norm(at::linear(inner, p_.up), p_.norm, p_.norm_bias, kEpsilon);
    const at::Tensor own =
        h.mul(by_sequence(keys, rows)).sum(1, /*keepdim=*/true);
    const at::Tensor a_Bj =
        at::cat({at::linear(h, at::stack(pooled_sources_)), own}, 1)
            .div(p_.temperature)
            .softmax(1);
    const std::int64_t t = p_.sources.size(0);
    const at::Tensor mixed =
        a_Bj.narrow(1, 0, t)
            .matmul(p_.sources.flatten(1))
            .view({-1, p_.sources.size(1), p_.sources.size(2)});
    const at::Tensor weight = a_Bj.narrow(1, t, 1).add(1).unsqueeze(2);
    return mixed.add(by_sequence(targets, rows).mul(weight));
  }

 private:
  at::Tensor pool(const at::Tensor& x, const Layout& layout) const {
    std::vector<at::Tensor> out;
    for (std::int64_t b = 0; b < layout.batch(); ++b) {
      const auto at = static_cast<std::size_t>(b);
      const std::int64_t first = layout.offsets[at];
      out.push_back(
          max_over_rows(x.narrow(0, first, layout.offsets[at + 1] - first)));
      if (p_.padding.defined()) {
        out.back() = at::maximum(out.back(), p_.padding);
      }
    }
    return at::stack(out);
  }

  Parts p_;
  std::int64_t at_;
  std::vector<at::Tensor> pooled_sources_;
};

class Attempt : public Method {
 public:
  explicit Attempt(Config config)
      : config_(std::move(config)),
        length_(whole("length", 1)),
        tasks_(checked_tasks(config_, "attempt")),
        random_(whole("random_sources", 0)),
        bottleneck_(whole("bottleneck", 1)),
        files_(string_list(config_.at("sources"))) {
    if (!files_.empty() && random_ > 0) {
      fail<UsageError>(
          "attempt: give either sources or random_sources, not both");
    }
    const Config& t = config_.at("temperature");
    if (!t.is_null() && !(t.get<double>() > 0)) {
      fail<UsageError>("attempt: temperature must be above 0, got {}",
                       t.dump());
    }
  }

  std::string_view id() const override { return "attempt"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    const Site site = prompt_site(backbone, length_, id()).second;
    const std::int64_t d = site.d_out;
    const at::Tensor sources = source_prompts(d);
    builder.constant(kSources, sources);
    for (std::int64_t k = 0; k < tasks_; ++k) {
      declare_of_task(builder, kTargets, k, tasks_, sources[0]);
    }
    const auto net = [&](const char* name, std::int64_t out, std::int64_t in) {
      const double bound = 1 / std::sqrt(static_cast<double>(in));
      declare_dense(builder, name,
                    uniform_values(name, {out, in}, bound, context.seed));
    };
    net(kDown, bottleneck_, d);
    net(kUp, d, bottleneck_);
    const at::Tensor ones = at::ones({d}, at::kFloat);
    const at::Tensor zeros = at::zeros({d}, at::kFloat);
    if (config_.at("train_norm").get<bool>()) {
      declare_dense(builder, kNorm, ones);
      declare_dense(builder, kNormBias, zeros);
    } else {
      builder.constant(kNorm, ones);
      builder.constant(kNormBias, zeros);
    }
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    const auto [number, site] = prompt_site(backbone, length_, id());
    Mixture::Parts p;
    for (std::int64_t k = 0; k < tasks_; ++k) {
      p.targets.push_back(delta.leaf(task_entry(kTargets, k)));
    }
    p.down = delta.leaf(kDown);
    p.up = delta.leaf(kUp);
    const auto frozen = [&](const char* name) {
      return delta.constants().at(name).to(p.down.device());
    };
    p.sources = frozen(kSources);
    const bool trains = delta.find(kNorm) >= 0;
    p.norm = trains ? delta.leaf(kNorm) : frozen(kNorm);
    p.norm_bias = trains ? delta.leaf(kNormBias) : frozen(kNormBias);
    p.temperature = config_.at("temperature").is_null()
                        ? static_cast<double>(site.d_out) * std::numbers::e
                        : config_.at("temperature").get<double>();
    if (config_.at("pool_padding").get<bool>()) {
      p.padding = padding(backbone, site);
    }
    backbone.attach(number, std::make_shared<Mixture>(std::move(p),
                                                      prompt_place(backbone)));
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "attempt: a prompt is no change of weights and cannot be merged");
  }

 private:
  std::int64_t whole(const char* key, std::int64_t least) const {
    const auto value = config_.at(key).get<std::int64_t>();
    if (value >= least) return value;
    fail<UsageError>("attempt: {} must be at least {}, got {}", key, least,
                     value);
  }

  static at::Tensor padding(const Backbone& backbone, const Site& site) {
    if (backbone.config().max_positions > 0) {
      fail<UsageError>(
          "attempt: pool_padding is for models whose embeddings have no "
          "positions, as T5; this is a {}",
          backbone.config().architecture);
    }
    return backbone.parameters()
        .slot(site.weight)
        .frozen[backbone.config().pad_id]
        .to(at::kFloat);
  }

  at::Tensor source_prompts(std::int64_t d) const {
    if (random_ > 0) {
      return uniform_values(kSources, {random_, length_, d}, 0.5,
                            config_.at("source_seed").get<std::uint64_t>());
    }
    if (files_.empty()) {
      fail<UsageError>(
          "attempt: needs sources, delta files of prompt_tuning runs on other "
          "tasks (or random_sources, to try without)");
    }
    std::vector<at::Tensor> sources;
    for (const std::string& file : files_) {
      const DeltaFile loaded = load_delta(file);
      const int entry = loaded.delta.find("prompt_embeddings");
      if (entry < 0) {
        fail<UsageError>(
            "attempt: {}: holds no prompt_embeddings; sources are deltas of "
            "prompt_tuning",
            file);
      }
      const at::Tensor prompt = loaded.delta.leaf(entry).detach();
      if (prompt.size(0) != length_ || prompt.size(1) != d) {
        fail<UsageError>(
            "attempt: {}: a prompt of {} vectors of width {}; this run's have "
            "length {} and width {}",
            file, prompt.size(0), prompt.size(1), length_, d);
      }
      sources.push_back(prompt);
    }
    return at::stack(sources);
  }

  Config config_;
  std::int64_t length_, tasks_, random_, bottleneck_;
  std::vector<std::string> files_;
};

}  // namespace

const MethodInfo& attempt_method() {
  static const MethodInfo kInfo = {
      "attempt", "mixtures of source prompts by attention (Asai et al. 2022)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<Attempt>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
