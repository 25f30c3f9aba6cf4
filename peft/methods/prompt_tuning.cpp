// Prompt tuning: vectors in front of the input's embeddings train, the model
// does not.
// Lester, Al-Rfou & Constant 2021, "The power of scale for parameter-efficient
// prompt tuning", secs. 2 and 3.2. Initial values: uniform, rows of the
// vocabulary's first `vocabulary` tokens drawn without repetition, or the means
// of given tokens' embeddings (class labels), the rest from the vocabulary.
// The vectors take positions of their own and the text's shift. In models that
// pool the first token (BERT) they stand behind it, so that it stays the first;
// HF peft puts them in front even there and pools the first of them: `front`.
// Not the backbone at step 0. Entry name and shape are HF peft's.
// Shape: P [length, d].
#include <ATen/ops/empty.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "base/random.h"
#include "peft/method_tools.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"length", FieldType::kInt, "100", "vectors"},
    {"init", FieldType::kString, "vocabulary",
     "vocabulary, uniform, normal, or tokens (see init_tokens)"},
    {"init_scale", FieldType::kFloat, "0.5",
     "uniform: in [-scale, scale); normal: standard deviation"},
    {"vocabulary", FieldType::kInt, "5000",
     "vocabulary: the first so many tokens are drawn from"},
    {"init_tokens", FieldType::kStrings, "~",
     "token ids of class labels, as \"318\" or \"318 5\" for a label of two; "
     "vector i starts as the mean of item i"},
    {"front", FieldType::kBool, "false",
     "in front of the text also where the model pools its first token, and the "
     "first vector is pooled instead, as HF peft has it"},
    {"train_head", FieldType::kBool, "true", "the task head trains too"},
};

constexpr char kName[] = "prompt_embeddings";

class Prompt : public EmbeddingAttachment {
 public:
  Prompt(at::Tensor vectors, std::int64_t at, bool pooled)
      : vectors_(std::move(vectors)), at_(at), pooled_(pooled) {}
  std::int64_t rows() const override { return vectors_.size(0); }
  std::int64_t insert_at() const override { return at_; }
  bool pools_first_row() const override { return pooled_; }
  at::Tensor vectors(const at::Tensor&, const ForwardContext&) override {
    return vectors_;
  }

 private:
  at::Tensor vectors_;
  std::int64_t at_;
  bool pooled_;
};

std::vector<std::vector<std::int64_t>> parse_tokens(
    const std::vector<std::string>& items) {
  std::vector<std::vector<std::int64_t>> out;
  for (const std::string& item : items) {
    std::istringstream words(item);
    std::vector<std::int64_t> ids;
    for (std::int64_t id; words >> id;) ids.push_back(id);
    if (!words.eof() || ids.empty()) {
      fail<UsageError>(
          "prompt_tuning: init_tokens holds token ids separated by blanks, got "
          "'{}'",
          item);
    }
    out.push_back(std::move(ids));
  }
  return out;
}

class PromptTuning : public Method {
 public:
  explicit PromptTuning(Config config)
      : config_(std::move(config)),
        length_(config_.at("length").get<std::int64_t>()),
        vocabulary_(config_.at("vocabulary").get<std::int64_t>()),
        init_(config_.at("init").get<std::string>()),
        scale_(config_.at("init_scale").get<double>()),
        tokens_(parse_tokens(string_list(config_.at("init_tokens")))) {
    if (length_ < 1) {
      fail<UsageError>("prompt_tuning: length must be at least 1, got {}",
                       length_);
    }
    if (init_ != "vocabulary" && init_ != "uniform" && init_ != "normal" &&
        init_ != "tokens") {
      fail<UsageError>(
          "prompt_tuning: init must be vocabulary, uniform, normal or tokens, "
          "got '{}'",
          init_);
    }
    if (!(scale_ >= 0)) {
      fail<UsageError>("prompt_tuning: init_scale must be at least 0, got {}",
                       scale_);
    }
    if (vocabulary_ < 1) {
      fail<UsageError>("prompt_tuning: vocabulary must be at least 1, got {}",
                       vocabulary_);
    }
    if ((init_ == "tokens") == tokens_.empty()) {
      fail<UsageError>("prompt_tuning: init: tokens goes with init_tokens");
    }
    if (static_cast<std::int64_t>(tokens_.size()) > length_) {
      fail<UsageError>("prompt_tuning: {} init_tokens for a prompt of {}",
                       tokens_.size(), length_);
    }
  }

  std::string_view id() const override { return "prompt_tuning"; }

  void declare(DeltaBuilder& builder, const Backbone& backbone,
               const DeclareContext& context) override {
    builder.method_config(config_text(id(), config_));
    const Site site = prompt_site(backbone, length_, id()).second;
    declare_dense(builder, kName, initial(backbone, site, context.seed));
    if (config_.at("train_head").get<bool>()) declare_head(builder, backbone);
  }

  void attach(Backbone& backbone, const Delta& delta) override {
    const std::int64_t place = prompt_place(backbone);
    const bool front = config_.at("front").get<bool>();
    backbone.attach(
        prompt_site(backbone, length_, id()).first,
        std::make_shared<Prompt>(delta.leaf(kName), front ? 0 : place,
                                 front && place > 0));
  }

  void merge(const Backbone&, const Delta&, MergedSlots&) const override {
    fail<UsageError>(
        "prompt_tuning: a prompt is no change of weights and cannot be merged");
  }

 private:
  at::Tensor initial(const Backbone& backbone, const Site& site,
                     std::uint64_t seed) const {
    const std::vector<std::int64_t> shape{length_, site.d_out};
    if (init_ == "uniform") return uniform_values(kName, shape, scale_, seed);
    if (init_ == "normal") return normal_values(kName, shape, scale_, seed);
    at::Tensor p = at::empty(shape, at::kFloat);
    const at::Tensor& table = backbone.parameters().slot(site.weight).frozen;
    const std::int64_t from = std::min(vocabulary_, table.size(0));
    if (length_ > from) {
      fail<UsageError>(
          "prompt_tuning: {} vectors cannot be drawn from {} tokens without "
          "repetition; raise vocabulary or set init: uniform",
          length_, from);
    }
    const PhiloxKey key = make_key(seed ^ name_seed(kName), Purpose::kInit);
    for (std::int64_t i = 0; i < length_; ++i) {
      p[i].copy_(table[static_cast<std::int64_t>(
          permute_index(static_cast<std::uint64_t>(i),
                        static_cast<std::uint64_t>(from), key))]);
    }
    for (std::size_t i = 0; i < tokens_.size(); ++i) {
      at::Tensor row = p[static_cast<std::int64_t>(i)].zero_();
      for (const std::int64_t token : tokens_[i]) {
        if (token < 0 || token >= table.size(0)) {
          fail<UsageError>(
              "prompt_tuning: init_tokens has token {}, the vocabulary {}",
              token, table.size(0));
        }
        row.add_(table[token], 1.0 / static_cast<double>(tokens_[i].size()));
      }
    }
    return p.mul_(backbone.config().embedding_scale);
  }

  Config config_;
  std::int64_t length_, vocabulary_;
  std::string init_;
  double scale_;
  std::vector<std::vector<std::int64_t>> tokens_;
};

}  // namespace

const MethodInfo& prompt_tuning_method() {
  static const MethodInfo kInfo = {
      "prompt_tuning", "vectors in front of the input (Lester et al. 2021)",
      kFields, [](const Config& config) -> std::unique_ptr<Method> {
        return std::make_unique<PromptTuning>(config);
      }};
  return kInfo;
}

}  // namespace thinwire
