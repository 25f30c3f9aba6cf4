// PROMPT_TUNING folders of HF peft: prompt_embeddings [n, d], for an
// encoder-decoder [2 n, d], of which nothing ever reads the second half.
// peft puts the vectors in front of the text also where the model pools its
// first token.
#include "base/error.h"
#include "peft/interop/peft_common.h"

namespace thinwire {
namespace {

constexpr const char* kName = "prompt_embeddings";

class PeftPromptTuning : public AdapterFormat {
 public:
  std::string_view library() const override { return "peft"; }
  std::string_view kind() const override {
    return "a PROMPT_TUNING folder of HF peft";
  }
  std::vector<std::string_view> methods() const override {
    return {"prompt_tuning"};
  }

  bool is(const Json& config) const override {
    return config.value("peft_type", Json()) == "PROMPT_TUNING";
  }

  EqualMethod method(const Json& config,
                     const Backbone& backbone) const override {
    refuse_unread(
        config, peft_keys({"num_virtual_tokens", "token_dim", "num_layers",
                           "num_attention_heads", "num_transformer_submodules",
                           "prompt_tuning_init", "prompt_tuning_init_text",
                           "prompt_tuning_init_state_dict_path",
                           "tokenizer_name_or_path"}));
    check_prompt(config, backbone);
    Config given = {
        {"length", config.at("num_virtual_tokens").get<std::int64_t>()},
        // Whatever the initial values: those of the folder replace them.
        {"init", "uniform"}};
    if (pools_first_token(backbone)) given["front"] = true;
    return {"prompt_tuning", given};
  }

  Json config(const WriteContext& context) const override {
    const Config& method = context.method;
    if (pools_first_token(context.backbone) &&
        !method.at("front").get<bool>()) {
      fail<UsageError>(
          "prompt_tuning: its vectors stand behind the first token, HF peft's "
          "in front of it; train with front: true what peft shall read");
    }
    Json out = prompt_config(context, "PROMPT_TUNING",
                             method.at("length").get<std::int64_t>());
    out.update({{"prompt_tuning_init", "RANDOM"},
                {"prompt_tuning_init_text", nullptr},
                {"tokenizer_kwargs", nullptr},
                {"tokenizer_name_or_path", nullptr}});
    return out;
  }

  std::vector<DiskTensor> tensors(const Delta& delta, const Backbone& backbone,
                                  const Json& config) const override {
    std::vector<DiskTensor> out;
    const int prompt = delta.find(kName);
    THINWIRE_ASSERT(prompt >= 0, "no entry '{}'", kName);
    const auto& shape = delta.entries()[static_cast<std::size_t>(prompt)].shape;
    out.push_back({std::string(kPeftWeights),
                   kName,
                   {},
                   {shape[0] * prompt_copies(config), shape[1]},
                   {{kName, 0, 0, shape[0]}}});
    add_peft_heads(out, delta, backbone, kPeftPromptWrapper);
    return out;
  }

 private:
  static bool pools_first_token(const Backbone& backbone) {
    return !is_encoder_decoder(backbone) && !is_causal(backbone);
  }
};

}  // namespace

const AdapterFormat& peft_prompt_tuning_format() {
  static const PeftPromptTuning kFormat;
  return kFormat;
}

}  // namespace thinwire
