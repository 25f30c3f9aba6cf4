#include "models/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

json bart() {
  return {{"model_type", "bart"},          {"d_model", 12},
          {"encoder_layers", 2},           {"decoder_layers", 1},
          {"encoder_attention_heads", 3},  {"decoder_attention_heads", 4},
          {"encoder_ffn_dim", 20},         {"decoder_ffn_dim", 24},
          {"max_position_embeddings", 16}, {"vocab_size", 40}};
}
json bert() {
  return {{"model_type", "bert"},         {"hidden_size", 12},
          {"num_attention_heads", 3},     {"intermediate_size", 20},
          {"num_hidden_layers", 2},       {"vocab_size", 40},
          {"max_position_embeddings", 16}};
}
json gpt2() {
  return {{"model_type", "gpt2"},
          {"n_embd", 12},
          {"n_head", 3},
          {"n_layer", 2},
          {"vocab_size", 40}};
}
json t5() {
  return {{"model_type", "t5"}, {"d_model", 12},    {"num_heads", 3},
          {"d_kv", 5},          {"d_ff", 20},       {"num_layers", 2},
          {"vocab_size", 40},   {"pad_token_id", 0}};
}

class ConfigTest : public testing::Test {
 protected:
  ~ConfigTest() override { fs::remove_all(folder_); }
  ModelConfig read(const std::string& text) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "config.json") << text;
    return read_model_config(folder_.string());
  }
  std::string error(const json& j) {
    try {
      read(j.dump());
    } catch (const UsageError& e) {
      return e.what();
    }
    return "accepted";
  }
  const fs::path folder_ = fs::temp_directory_path() /
                           ("thinwire_config_" + std::to_string(::getpid()));
};

TEST_F(ConfigTest, Gpt2DefaultsAreThoseOfItsConfigClass) {
  const ModelConfig c = read(gpt2().dump());
  EXPECT_TRUE(c.decoder_only);
  EXPECT_TRUE(c.tied_head);
  EXPECT_EQ(c.d_ff, 48);
  EXPECT_EQ(c.max_positions, 1024);
  EXPECT_EQ(c.activation, "gelu_new");
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.dropout, 0.1);
  EXPECT_EQ(c.pad_id, -1);
  EXPECT_EQ(c.eos_id, 50256);
  json j = gpt2();
  j["n_inner"] = nullptr;
  j["embd_pdrop"] = 0.2;
  EXPECT_EQ(read(j.dump()).d_ff, 48);
  EXPECT_EQ(read(j.dump()).embedding_dropout, 0.2);
  j["n_head"] = 5;
  EXPECT_THAT(error(j), HasSubstr("a divisor of n_embd 12"));
  for (const char* key :
       {"scale_attn_by_inverse_layer_idx", "add_cross_attention"}) {
    j = gpt2();
    j[key] = true;
    EXPECT_THAT(error(j), HasSubstr(key));
  }
}

TEST_F(ConfigTest, BertDefaultsAreThoseOfItsConfigClass) {
  const ModelConfig c = read(bert().dump());
  EXPECT_EQ(c.architecture, "bert");
  EXPECT_EQ(c.d_kv, 4);
  EXPECT_EQ(c.type_vocab, 2);
  EXPECT_EQ(c.activation, "gelu");
  EXPECT_EQ(c.norm_eps, 1e-12);
  EXPECT_EQ(c.dropout, 0.1);
  EXPECT_EQ(c.classifier_dropout, 0.1);
  EXPECT_EQ(c.labels, 2);
}

TEST_F(ConfigTest, BartDefaultsAreThoseOfItsConfigClass) {
  const ModelConfig c = read(bart().dump());
  EXPECT_EQ(c.activation, "gelu");
  EXPECT_EQ(c.norm_eps, 1e-5);
  EXPECT_EQ(c.embedding_scale, 1);
  EXPECT_EQ(c.dropout, 0.1);
  EXPECT_EQ(c.attention_dropout, 0);
  EXPECT_EQ(c.activation_dropout, 0);
  EXPECT_EQ(c.classifier_dropout, 0);
  EXPECT_EQ(c.initializer_range, 0.02);
  EXPECT_EQ(c.max_positions, 16);
  EXPECT_EQ(c.first_position, 2);
  EXPECT_TRUE(c.padding_has_position);
  EXPECT_EQ(c.pad_id, 1);
  EXPECT_EQ(c.eos_id, 2);
  EXPECT_EQ(c.decoder_start_id, 2);
}

TEST_F(ConfigTest, WhatGenerationForcesIsReadFromItsOwnFileFirst) {
  json j = bart();
  EXPECT_EQ(read(j.dump()).generation_start_id, 2);
  EXPECT_EQ(read(j.dump()).forced_bos_id, -1);
  EXPECT_EQ(read(j.dump()).forced_eos_id, -1);
  j["decoder_start_token_id"] = 3;
  j["bos_token_id"] = 0;
  j["forced_bos_token_id"] = 4;
  j["forced_eos_token_id"] = 5;
  ModelConfig c = read(j.dump());
  EXPECT_EQ(c.generation_start_id, 3);
  EXPECT_EQ(c.forced_bos_id, 4);
  EXPECT_EQ(c.forced_eos_id, 5);
  std::ofstream(folder_ / "generation_config.json")
      << R"({"bos_token_id": 6, "forced_eos_token_id": null})";
  c = read(j.dump());
  EXPECT_EQ(c.decoder_start_id, 3);  // training's
  EXPECT_EQ(c.generation_start_id, 6);
  EXPECT_EQ(c.forced_bos_id, -1);
  EXPECT_EQ(c.forced_eos_id, -1);
  std::ofstream(folder_ / "generation_config.json")
      << R"({"forced_bos_token_id": 40})";
  EXPECT_THAT(error(j),
              testing::AllOf(HasSubstr("generation_config.json: forced_bos_"),
                             HasSubstr("below vocab_size 40, got 40")));
}

TEST_F(ConfigTest, NullClassifierDropoutIsTheHiddenOne) {
  json j = bert();
  j["classifier_dropout"] = nullptr;
  j["hidden_dropout_prob"] = 0.25;
  EXPECT_EQ(read(j.dump()).classifier_dropout, 0.25);
}

TEST_F(ConfigTest, LabelsAreCountedFromTheirNames) {
  json j = bert();
  j["id2label"] = {{"0", "a"}, {"1", "b"}, {"2", "c"}};
  EXPECT_EQ(read(j.dump()).labels, 3);
}

TEST_F(ConfigTest, T5ScaleFollowsTheNewKeyElseTheTie) {
  json j = t5();
  EXPECT_TRUE(read(j.dump()).scale_decoder_outputs) << "1.0, nothing written";
  j["tie_word_embeddings"] = false;
  EXPECT_FALSE(read(j.dump()).scale_decoder_outputs) << "1.1, old release";
  j["tie_word_embeddings"] = true;
  j["scale_decoder_outputs"] = false;
  EXPECT_FALSE(read(j.dump()).scale_decoder_outputs) << "1.1, saved again";
}

TEST_F(ConfigTest, T5FeedForwardForms) {
  json j = t5();
  EXPECT_EQ(read(j.dump()).activation, "relu");
  EXPECT_EQ(read(j.dump()).decoder_layers, 2) << "as many as num_layers";
  j["feed_forward_proj"] = "gated-gelu";
  EXPECT_EQ(read(j.dump()).activation, "gelu_new");
  EXPECT_TRUE(read(j.dump()).gated);
  EXPECT_EQ(read(j.dump()).decoder_start_id, 0) << "the pad token";
}

TEST_F(ConfigTest, ErrorsNameFileKeyValueAndRight) {
  json j = bert();
  j["hidden_size"] = "12";
  EXPECT_THAT(error(j), HasSubstr("config.json: hidden_size must be a whole "
                                  "number in [1, 2147483647], got \"12\""));
  j = bert();
  j["hidden_size"] = 1ull << 63;
  EXPECT_THAT(error(j), HasSubstr("hidden_size must be"));
  j = bert();
  j.erase("vocab_size");
  EXPECT_THAT(error(j), HasSubstr("vocab_size is missing"));
  j = bert();
  j["num_attention_heads"] = 5;
  EXPECT_THAT(error(j), HasSubstr("a divisor of hidden_size 12, got 5"));
  j = bert();
  j["hidden_dropout_prob"] = 1.0;
  EXPECT_THAT(error(j), HasSubstr("a probability in [0, 1), got 1.0"));
  j = bert();
  j["hidden_act"] = "swish";
  EXPECT_THAT(error(j), HasSubstr("gelu, gelu_new or relu, got \"swish\""));
  j = bert();
  j["pad_token_id"] = 40;
  EXPECT_THAT(error(j), HasSubstr("below vocab_size 40"));
  j = bart();
  j["decoder_attention_heads"] = 5;
  EXPECT_THAT(error(j), HasSubstr("decoder_attention_heads must be a divisor "
                                  "of d_model 12, got 5"));
  j = bart();
  j["encoder_layerdrop"] = 0.1;
  EXPECT_THAT(error(j), HasSubstr("encoder_layerdrop must be 0"));
  j = bart();
  j["tie_word_embeddings"] = false;
  EXPECT_THAT(error(j), HasSubstr("tie_word_embeddings must be true"));
  j = t5();
  j["feed_forward_proj"] = "gated-tanh";
  EXPECT_THAT(error(j), HasSubstr("gated-gelu"));
  EXPECT_THAT(error({{"model_type", "ber"}}),
              HasSubstr("model_type 'ber' is unknown; choose one of: bert"));
  EXPECT_THAT(error(json::object()), HasSubstr("model_type is missing"));
  EXPECT_THAT(error(json::array()), HasSubstr("not a JSON object"));
  EXPECT_THROW(read("{"), UsageError);
  EXPECT_THROW(read_model_config("absent/config.json"), IoError);
}

}  // namespace
}  // namespace thinwire
