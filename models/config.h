// config.json of an HF folder, read into the fields the backbones need.
// T5: tie and scale rules of old and new transformers releases are resolved
// here (scale_decoder_outputs, else tie_word_embeddings).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

namespace thinwire {

struct ModelConfig {
  // "bart" | "bert" | "gpt2" | "roberta" | "t5"
  std::string architecture;
  std::int64_t d_model = 0, heads = 0, d_kv = 0, d_ff = 0;
  std::int64_t layers = 0, decoder_layers = 0;
  std::int64_t decoder_heads = 0, decoder_d_ff = 0;  // of encoder-decoders
  std::int64_t vocab_size = 0, type_vocab = 0;
  std::int64_t max_positions = 0;  // tokens that a sequence may have
  double norm_eps = 1e-12;
  std::string activation;  // relu | gelu | gelu_new
  bool gated = false;
  double dropout = 0.1, attention_dropout = 0.1, classifier_dropout = 0.1;
  double embedding_dropout = 0.1;   // where it is not `dropout`: GPT-2's
  double activation_dropout = 0;    // BART: between the feed-forward's layers
  double embedding_scale = 1;       // of tokens' embeddings
  double initializer_range = 0.02;  // BART: init_std; T5: initializer_factor
  std::int64_t relative_buckets = 32, relative_max_distance = 128;
  bool scale_decoder_outputs = false;
  // A position's row in the table of positions, less itself: RoBERTa counts
  // from behind the padding token's, BART from 2.
  std::int64_t first_position = 0;
  // HF's positions are columns of a padded batch; RoBERTa's count over tokens
  // that are not padding.
  bool padding_has_position = true;
  bool tied_head = true;  // the output matrix is the embedding
  // The only stack is a decoder: a token sees those before it, and the last one
  // stands for the sequence.
  bool decoder_only = false;
  // The head of sentence-level tasks has a layer of its own before the last, in
  // place of the backbone's pooler.
  bool dense_head = false;
  std::int64_t pad_id = 0, eos_id = -1, decoder_start_id = -1;
  // Of generation alone: the decoder's start token, what the first token behind
  // it must be, and what the last that may come must be. -1: none.
  std::int64_t generation_start_id = -1, forced_bos_id = -1, forced_eos_id = -1;
  std::int64_t labels = 2;
  nlohmann::json raw;
};

// path: the config.json or the folder that holds it; of a
// generation_config.json beside it what generation takes of it, in place of
// what config.json says. Throws UsageError naming the file, the key, its value
// and what would be right (an unknown model_type lists the known ones), IoError
// if it cannot be read.
ModelConfig read_model_config(const std::string& path);
// The same of what such a file holds; `where` stands for the file in messages.
ModelConfig parse_model_config(nlohmann::json raw, const std::string& where);

}  // namespace thinwire
