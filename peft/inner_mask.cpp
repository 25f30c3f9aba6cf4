#include "peft/inner_mask.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"
#include "models/parameters.h"
#include "peft/kept_numbers.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

// By ScoreKind.
constexpr std::string_view kScores[] = {"random", "er",    "magnitude",
                                        "snip",   "grasp", "fisher"};

// Puts a method at the sites for as long as this lives.
class Attached {
 public:
  Attached(Backbone& backbone, Method& method, const Delta& delta)
      : backbone_(backbone) {
    method.attach(backbone, delta);
  }
  ~Attached() { backbone_.detach_all(); }
  Attached(const Attached&) = delete;
  Attached& operator=(const Attached&) = delete;

 private:
  Backbone& backbone_;
};

class InnerMaskMethod : public Method {
 public:
  explicit InnerMaskMethod(InnerMask options)
      : is_(std::move(options)),
        inner_(
            make_method(is_.inner.at("method").get<std::string>(), is_.inner)) {
    if (!(is_.density > 0 && is_.density <= 1)) {
      fail<UsageError>("{}: density must be in (0, 1], got {}", id(),
                       is_.density);
    }
    const auto at_least = [&](const char* key, std::int64_t value,
                              std::int64_t low) {
      if (value >= low) return;
      fail<UsageError>("{}: {} must be at least {}, got {}", id(), key, low,
                       value);
    };
    const auto fields = find_method(inner_->id()).fields;
    if (std::ranges::count(fields, FieldType::kMethod, &Field::type) > 0) {
      fail<UsageError>("{}: {} masks a method already; give that one alone",
                       id(), inner_->id());
    }
    at_least("samples", is_.samples, 1);
    at_least("warmup_steps", is_.warmup_steps, 0);
  }

  std::string_view id() const override { return is_.id; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), is_.config));
    const auto inner = [&] {
      builder.parts([&] { inner_->declare(builder, backbone, context); });
    };
    if (context.whole || context.step < is_.warmup_steps) return inner();
    builder.masked(masks(backbone, context), is_.rest, inner);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    inner_->attach(backbone, delta);
  }

  std::optional<std::int64_t> next_boundary(std::int64_t step) const override {
    const auto theirs = inner_->next_boundary(step);
    if (step >= is_.warmup_steps) return theirs;
    return theirs ? std::min(*theirs, is_.warmup_steps) : is_.warmup_steps;
  }

  void merge(const Backbone& backbone, const Delta& delta,
             MergedSlots& slots) const override {
    inner_->merge(backbone, delta, slots);
  }
  bool mergeable() const override { return inner_->mergeable(); }

 private:
  using Masks = DeltaBuilder::Masks;

  Masks masks(const Backbone& backbone, const DeclareContext& context) {
    DeltaBuilder builder;
    inner_->declare(builder, backbone, context);
    Delta begins = builder.build();
    if (!backbone.parameters().device().is_cpu()) {
      begins.place(backbone.parameters().device());
    }
    const std::vector<std::string> names = matrices_of(begins);
    const Delta& now = context.current == nullptr ? begins : *context.current;
    if (Masks drawn = masks_in(now, names); !drawn.empty()) return drawn;
    std::vector<ScoredMatrix> matrices;
    std::vector<std::int64_t> sizes;
    for (const std::string& name : names) {
      matrices.push_back({name, now.leaf(name)});
      sizes.push_back(matrices.back().leaf.numel());
    }
    const std::int64_t k = budget(sizes);
    std::vector<at::Tensor> index;
    if (scores_by_gradient(is_.score) && context.scoring == nullptr) {
      index = spread_numbers(sizes, k, Quota::kTensor);
    } else {
      index = choose(score(matrices, begins, context), sizes, k);
      check_left(names, index);
    }
    Masks masks;
    for (std::size_t i = 0; i < names.size(); ++i) {
      masks.emplace(names[i], std::move(index[i]));
    }
    return masks;
  }

  // What the method inside declares of its own, but vectors and scalars.
  std::vector<std::string> matrices_of(const Delta& delta) const {
    std::vector<std::string> names;
    for (const DeltaEntry& e : delta.entries()) {
      if (e.kind == EntryKind::kDense && e.target.empty() &&
          e.shape.size() >= 2) {
        names.push_back(e.name);
      }
    }
    if (names.empty()) {
      fail<UsageError>(
          "{}: {} adds no matrix of its own that a mask could be drawn in; "
          "choose an adapter or lora",
          id(), inner_->id());
    }
    return names;
  }

  // Drawn once: boundaries of other methods leave it alone.
  static Masks masks_in(const Delta& delta,
                        const std::vector<std::string>& names) {
    Masks masks;
    for (const std::string& name : names) {
      const int at = delta.find(name);
      THINWIRE_ASSERT(at >= 0, "what trains until now has no '{}'", name);
      const DeltaEntry& e = delta.entries()[static_cast<std::size_t>(at)];
      if (e.kind == EntryKind::kMasked) masks.emplace(name, e.index);
    }
    return masks;
  }

  std::int64_t budget(const std::vector<std::int64_t>& sizes) const {
    std::int64_t all = 0;
    for (const std::int64_t n : sizes) all += n;
    const std::int64_t k = exact_share(is_.density, all);
    if (k == 0) {
      fail<UsageError>("{}: density {} of {} numbers is none", id(),
                       is_.density, all);
    }
    return k;
  }

  std::vector<at::Tensor> score(const std::vector<ScoredMatrix>& matrices,
                                const Delta& begins,
                                const DeclareContext& context) {
    const ScoreOptions options{.kind = is_.score,
                               .seed = context.seed,
                               .samples = is_.samples,
                               .labels = is_.labels};
    std::optional<Attached> attached;
    if (scores_by_gradient(is_.score) && context.current == nullptr) {
      attached.emplace(context.scoring->backbone(), *inner_, begins);
    }
    auto scores = score_numbers(matrices, options, context.scoring);
    const bool all_zero = std::ranges::none_of(
        scores, [](const at::Tensor& s) { return s.ne(0).any().item<bool>(); });
    if (all_zero) {
      fail<UsageError>(
          "{}: score {} is 0 for every number of {}, as where a factor starts "
          "at 0; set warmup_steps, so that all of them train before the mask "
          "is drawn, or choose another score or start",
          id(), score_name(), inner_->id());
    }
    return scores;
  }

  std::string_view score_name() const {
    return kScores[static_cast<std::size_t>(is_.score)];
  }

  std::vector<at::Tensor> choose(const std::vector<at::Tensor>& scores,
                                 const std::vector<std::int64_t>& sizes,
                                 std::int64_t k) const {
    if (is_.score == ScoreKind::kErdosRenyi) {
      std::vector<std::vector<std::int64_t>> shapes;
      for (const at::Tensor& s : scores) shapes.push_back(s.sizes().vec());
      return keep_quotas(scores, erdos_renyi_quotas(shapes, k));
    }
    return is_.quota == Quota::kTensor
               ? keep_quotas(scores, shares_of(k, sizes))
               : keep_largest(scores, k);
  }

  // A matrix of zeros lets nothing through.
  void check_left(const std::vector<std::string>& names,
                  const std::vector<at::Tensor>& index) const {
    if (is_.rest != DeltaBuilder::Rest::kZero) return;
    for (std::size_t i = 0; i < names.size(); ++i) {
      if (index[i].numel() > 0) continue;
      fail<UsageError>(
          "{}: density {} by {} removes all of '{}'; raise density, set quota: "
          "tensor, or choose another score",
          id(), is_.density, score_name(), names[i]);
    }
  }

  InnerMask is_;
  std::unique_ptr<Method> inner_;
};

}  // namespace

ScoreKind parse_score(std::string_view method, std::string_view name,
                      std::span<const ScoreKind> known) {
  std::vector<std::string> names;
  for (const ScoreKind kind : known) {
    names.emplace_back(kScores[static_cast<std::size_t>(kind)]);
    if (names.back() == name) return kind;
  }
  fail<UsageError>("{}: score '{}' is unknown; choose one of: {}", method, name,
                   list_nearest_first(std::string(name), names));
}

std::unique_ptr<Method> make_inner_mask(InnerMask options) {
  return std::make_unique<InnerMaskMethod>(std::move(options));
}

}  // namespace thinwire
