// A pretrained model that does not move: blocks over a parameter source, with
// sites that methods decorate.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "models/config.h"
#include "models/parameters.h"
#include "models/sites.h"

namespace thinwire {

class SideNetwork;  // models/side_network.h
class TensorSource;
struct TokenLosses;  // ops/linear_cross_entropy.h

// One side of a batch. tokens int64 [T]; types int64 [T] or undefined (all 0).
// states: what a network beside the stack reads of it, known from before
// (models/side_features.h): the stack itself then does not run.
struct TokenStream {
  at::Tensor tokens, types;
  Layout layout;
  std::shared_ptr<const StackStates> states = {};
};

struct BackboneInput {
  TokenStream encoder;              // the only stream of models with one stack
  TokenStream decoder;              // encoder-decoder: tokens already shifted
  std::vector<std::int32_t> tasks;  // [B]
  // Filled by tasks, read by their losses: class or regression labels [B]
  // (int64 / fp32), or target tokens int64 of the decoder's rows (of the only
  // stream's, where that is a decoder), -100 ignored. Where a sample has
  // several answers to rank: the right one's number int64 [B], how many decoder
  // sequences each sample has [B], and their tokens int64 [T_decoder].
  at::Tensor labels;
  std::vector<std::int64_t> choices;
  at::Tensor targets;
  // Of a decoder's sequences that are a prompt and its target: how many tokens
  // the prompt has, 0: there is none. [B], or empty
  std::vector<std::int64_t> prompts;
  std::vector<std::uint64_t> sample_ids;  // [B]
};

// Hidden states [T', d] of the last stack, after its final norm (and dropout);
// T' counts inserted rows. `layout` describes them; `first_rows` int64 [B] is
// what pooling reads, each sequence's first real token (CLS) unless an
// attachment says otherwise; `token_rows` int64 [T] the rows of the input's
// tokens, undefined when nothing was inserted; `side` what a network beside the
// encoder hands to its decoder, a row for each of `hidden`.
struct BackboneOutput {
  at::Tensor hidden, side;
  Layout layout;
  at::Tensor first_rows, token_rows;

  // [T, d]: of the input's tokens, without what was inserted between them.
  at::Tensor token_states() const;
};

// One row per sequence (pooled vectors, CLS): the layout that a linear site's
// attachments see when x is [B, d].
Layout pooled_layout(const Layout& layout);

class Backbone {
 public:
  virtual ~Backbone() = default;

  const ModelConfig& config() const { return config_; }
  // One rate for hidden states, attention weights, what lies between a
  // feed-forward's layers and the classifier, in [0, 1), instead of the model's
  // own.
  void set_dropout(double p) {
    config_.dropout = config_.attention_dropout = p;
    config_.embedding_dropout = config_.activation_dropout = p;
    config_.classifier_dropout = p;
  }
  void set_dropout(const ModelConfig& like) {  // as another model's
    config_.dropout = like.dropout;
    config_.attention_dropout = like.attention_dropout;
    config_.embedding_dropout = like.embedding_dropout;
    config_.activation_dropout = like.activation_dropout;
    config_.classifier_dropout = like.classifier_dropout;
  }
  Parameters& parameters() { return parameters_; }
  const Parameters& parameters() const { return parameters_; }
  const std::vector<Site>& sites() const { return sites_; }
  int find_site(SiteKind kind, std::string_view name) const;  // -1: none

  // Attachments act in the order they were attached. Throw InternalError if
  // the site is of another kind.
  void attach(int site, std::shared_ptr<LinearAttachment> a);
  void attach(int site, std::shared_ptr<SublayerAttachment> a);
  void attach(int site, std::shared_ptr<AttentionAttachment> a);
  void attach(int site, std::shared_ptr<EmbeddingAttachment> a);
  void attach(int site, std::shared_ptr<TapAttachment> a);
  // Beside every stack; one at most, else UsageError.
  void attach(std::shared_ptr<SideNetwork> network);
  void detach_all();
  // The network beside the stacks, null: none; and another in its place.
  const std::shared_ptr<SideNetwork>& side() const { return side_; }
  std::shared_ptr<SideNetwork> swap_side(std::shared_ptr<SideNetwork> network) {
    return std::exchange(side_, std::move(network));
  }
  // What makes the stacks' hidden states another function of their input than
  // the frozen weights are, in words: the first weight that trains or place
  // where something is attached, heads and poolers apart. "": nothing.
  std::string moved_by() const;

  // Dropout acts only if ctx.training. Thread-compatible: one call at a time.
  virtual BackboneOutput forward(const BackboneInput& in,
                                 const ForwardContext& ctx) = 0;
  // Encoder-decoders: the encoder alone, and the decoder on its output, so
  // that generation runs the encoder once. Others throw InternalError. With
  // ctx.cache the decoder's tokens are those of the cache's streams that it has
  // not read yet; so are forward()'s in a model that is a decoder only.
  virtual BackboneOutput encode(const BackboneInput& in,
                                const ForwardContext& ctx) = 0;
  virtual BackboneOutput decode(const BackboneOutput& memory,
                                const BackboneInput& in,
                                const ForwardContext& ctx) = 0;
  // A stack's layers and what comes behind them, from hidden states [T, d] that
  // take the place of embeddings after dropout. memory: the encoder's, for a
  // decoder that reads them; rows of ctx.layout and ctx.memory.
  virtual at::Tensor run_stack(Stack stack, at::Tensor hidden,
                               const at::Tensor& memory,
                               const ForwardContext& ctx) = 0;
  // BERT: tanh(pooler(CLS)) [B, d]; GPT-2: the last token's hidden state.
  // Throws UsageError where there is none.
  virtual at::Tensor pooled(const BackboneOutput& out,
                            const ForwardContext& ctx) = 0;
  // hidden [n, d] -> [n, V]. Throws UsageError where there is no LM head.
  at::Tensor lm_logits(const at::Tensor& hidden, const ForwardContext& ctx);
  // cross_entropy_sum() of those logits and labels int64 [n]; the logits are
  // never held unless something is attached to the head.
  at::Tensor lm_loss(const at::Tensor& hidden, const at::Tensor& labels,
                     const ForwardContext& ctx, double smoothing = 0);
  // The same per row, with the likeliest tokens; outside autograd.
  TokenLosses lm_token_losses(const at::Tensor& hidden,
                              const at::Tensor& labels,
                              const ForwardContext& ctx);

  // A linear layer of a task head (its weight and bias are slots already):
  // makes it a site like any other and returns the site number.
  int add_head_linear(std::string name, int weight, int bias, std::int64_t d_in,
                      std::int64_t d_out);
  // The linear site with its attachments applied; x [T, d_in] -> [T, d_out].
  // ctx.layout describes the rows of x (pooled_layout() where x is [B, d]).
  at::Tensor linear(int site, const at::Tensor& x, const ForwardContext& ctx);

 protected:
  explicit Backbone(ModelConfig config) : config_(std::move(config)) {}

  int add_site(Site site);

  struct Attachments {
    std::vector<std::shared_ptr<LinearAttachment>> linear;
    std::vector<std::shared_ptr<SublayerAttachment>> sublayer;
    std::vector<std::shared_ptr<AttentionAttachment>> attention;
    std::vector<std::shared_ptr<EmbeddingAttachment>> embedding;
    std::vector<std::shared_ptr<TapAttachment>> tap;
  };
  const Attachments& at_site(int site) const {
    return attachments_[static_cast<std::size_t>(site)];
  }

  // [1, V]; undefined where it adds nothing, as in nearly every checkpoint.
  at::Tensor lm_bias(const ForwardContext& ctx);
  // Whether the loss of these hidden states goes through the logits.
  bool needs_logits(const at::Tensor& hidden, const ForwardContext& ctx);

  Attachments& site_of_kind(int site, SiteKind kind);
  const Site& lm_head_site() const;  // throws UsageError where there is none

  ModelConfig config_;
  Parameters parameters_;
  std::vector<Site> sites_;
  std::vector<Attachments> attachments_;
  std::optional<bool> lm_bias_adds_;
  int lm_head_ = -1;     // linear site
  double lm_scale_ = 1;  // of the hidden states it reads
  int lm_bias_ = -1;     // slot of a buffer [1, V], of the logits
  std::shared_ptr<SideNetwork> side_;
};

// With the tensors that `source` gives, fp32 or with bf16 matrices; hidden
// states are fp32 either way. Reads no weight's numbers.
std::unique_ptr<Backbone> make_backbone(const ModelConfig& config,
                                        TensorSource& source);
// The tensors of an HF folder that holds a backbone of this config.
std::unique_ptr<TensorSource> open_weights(const std::string& folder,
                                           const ModelConfig& config);
// model: an HF folder. Throws UsageError/IoError with one line.
std::unique_ptr<Backbone> load_backbone(const std::string& folder);
// Random weights, a function of (seed, tensor name) alone.
std::unique_ptr<Backbone> random_backbone(const std::string& config_json,
                                          std::uint64_t seed);

// Names of the architectures, for `list` and messages.
std::vector<std::string> backbone_names();

}  // namespace thinwire
