// PREFIX_TUNING folders of HF peft: prompt_embeddings [n, L 2 I], in each row
// the keys and values of layer after layer. Models of one stack only. A prefix
// computed by a perceptron is stored as what it computes.
#include "base/error.h"
#include "peft/interop/peft_common.h"
#include "peft/prefix_entries.h"

namespace thinwire {
namespace {

constexpr const char* kName = "prompt_embeddings";

std::vector<const Site*> attentions(const Backbone& backbone) {
  std::vector<const Site*> out;
  for (const Site& site : backbone.sites()) {
    if (site.kind == SiteKind::kAttention) out.push_back(&site);
  }
  return out;
}

void refuse_two_stacks(const Backbone& backbone) {
  if (!is_encoder_decoder(backbone)) return;
  fail<UsageError>(
      "HF peft's prefix of an encoder-decoder is not what it says: the encoder "
      "gets none, decoder layers i and i + L/2 share one, and half of the "
      "numbers never train; {} needs a prefix of Thinwire's own",
      backbone.config().architecture);
}

class PeftPrefixTuning : public AdapterFormat {
 public:
  std::string_view library() const override { return "peft"; }
  std::string_view kind() const override {
    return "a PREFIX_TUNING folder of HF peft";
  }
  std::vector<std::string_view> methods() const override {
    return {"prefix_tuning"};
  }

  bool is(const Json& config) const override {
    return config.value("peft_type", Json()) == "PREFIX_TUNING";
  }

  EqualMethod method(const Json& config,
                     const Backbone& backbone) const override {
    refuse_two_stacks(backbone);
    refuse_unread(
        config, peft_keys({"num_virtual_tokens", "token_dim", "num_layers",
                           "num_attention_heads", "num_transformer_submodules",
                           "init_weights", "encoder_hidden_size",
                           "prefix_projection"}));
    check_prompt(config, backbone);
    return {"prefix_tuning",
            {{"length", config.at("num_virtual_tokens").get<std::int64_t>()},
             {"reparametrise", false},
             {"shift_positions", true}}};
  }

  Json config(const WriteContext& context) const override {
    refuse_two_stacks(context.backbone);
    const Config& method = context.method;
    if (!method.at("shift_positions").get<bool>()) {
      fail<UsageError>(
          "prefix_tuning: its text begins at position 0, HF peft's behind the "
          "prefix; train with shift_positions: true what peft shall read");
    }
    Json out = prompt_config(context, "PREFIX_TUNING",
                             method.at("length").get<std::int64_t>());
    out.update({{"encoder_hidden_size", context.backbone.config().d_model},
                {"init_weights", nullptr},
                {"prefix_projection", false}});
    return out;
  }

  std::optional<Delta> prepare(const WriteContext& context) const override {
    if (!context.method.at("reparametrise").get<bool>()) return std::nullopt;
    Config direct = context.method;
    direct["reparametrise"] = false;
    DeltaBuilder builder;
    make_method("prefix_tuning", direct)
        ->declare(builder, context.backbone, {});
    Delta out = builder.build();
    const auto put = [&out](const std::string& name, const at::Tensor& value) {
      out.leaf(name).detach().copy_(value.detach());
    };
    for (const DeltaEntry& e : out.entries()) {
      if (e.head) put(e.name, context.delta.leaf(e.name));
    }
    for (const Site* site : attentions(context.backbone)) {
      const auto [keys, values] =
          PrefixLeaves(context.delta, *site, true).keys_values();
      put(PrefixNames(*site).keys(), keys);
      put(PrefixNames(*site).values(), values);
    }
    return out;
  }

  std::vector<DiskTensor> tensors(const Delta& delta, const Backbone& backbone,
                                  const Json&) const override {
    DiskTensor prompt{std::string(kPeftWeights), kName, {}, {}, {}};
    std::int64_t length = 0, start = 0;
    for (const Site* site : attentions(backbone)) {
      const PrefixNames names(*site);
      length = delta.leaf(names.keys()).size(0);
      for (const auto& name : {names.keys(), names.values()}) {
        prompt.pieces.push_back({name, 1, start, site->d_out});
        start += site->d_out;
      }
    }
    prompt.shape = {length, start};
    std::vector<DiskTensor> out{std::move(prompt)};
    add_peft_heads(out, delta, backbone, kPeftPromptWrapper);
    return out;
  }
};

}  // namespace

const AdapterFormat& peft_prefix_tuning_format() {
  static const PeftPrefixTuning kFormat;
  return kFormat;
}

}  // namespace thinwire
