// Folders of AdapterHub's `adapters` with bottleneck adapters, whose config
// says which of ours they are:
//   is_parallel                 parallel_adapter
//   original_ln_before          pfeiffer; with phm_layer compacter, its input
//                               normed (compacter++)
//   neither                     houlsby; with phm_layer compacter or
//   phm_adapter
// adapter.safetensors holds the adapter, its name within the keys;
// model_head.safetensors and head_config.json the head of HF's own model
// classes. Dropout stands behind the second map there, behind the non-linearity
// here: a difference in training alone.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "models/export.h"
#include "peft/interop/format.h"

namespace thinwire {
namespace {

constexpr const char* kWeights = "adapter.safetensors";
constexpr const char* kHead = "model_head.safetensors";
constexpr std::string_view kOurs = ".adapters.thinwire.";
constexpr std::string_view kOurShared = "shared_parameters.thinwire.";

// As `adapters` writes a BnConfig.
Json defaults() {
  return {{"adapter_residual_before_ln", false},
          {"cross_adapter", false},
          {"dropout", 0.0},
          {"factorized_phm_W", true},
          {"factorized_phm_rule", false},
          {"hypercomplex_nonlinearity", "glorot-uniform"},
          {"init_weights", "bert"},
          {"init_weights_seed", nullptr},
          {"inv_adapter", nullptr},
          {"inv_adapter_reduction_factor", nullptr},
          {"is_parallel", false},
          {"learn_phm", true},
          {"leave_out", Json::array()},
          {"ln_after", false},
          {"ln_before", false},
          {"mh_adapter", false},
          {"non_linearity", "relu"},
          {"original_ln_after", true},
          {"original_ln_before", false},
          {"output_adapter", true},
          {"phm_bias", true},
          {"phm_c_init", "normal"},
          {"phm_dim", 4},
          {"phm_init_range", 0.0001},
          {"phm_layer", false},
          {"phm_rank", 1},
          {"reduction_factor", 16},
          {"residual_before_ln", true},
          {"scaling", 1.0},
          {"shared_W_phm", false},
          {"shared_phm_rule", true},
          {"stochastic_depth", 0.0},
          {"use_gating", false}};
}

// What is as it must be for an adapter of ours to compute the same.
void check(const Json& c) {
  const Json usual = defaults();
  for (const char* key :
       {"adapter_residual_before_ln", "ln_after", "ln_before",
        "original_ln_after", "output_adapter", "phm_bias", "residual_before_ln",
        "shared_W_phm", "factorized_phm_rule", "inv_adapter", "use_gating"}) {
    if (c.at(key) == usual.at(key)) continue;
    fail<UsageError>("config.{} is {}, only {} is read", key, c.at(key).dump(),
                     usual.at(key).dump());
  }
  if (!c.at("reduction_factor").is_number()) {
    fail<UsageError>("config.reduction_factor is {}, only one number is read",
                     c.at("reduction_factor").dump());
  }
  if (!c.at("scaling").is_number() && c.at("scaling") != "learned") {
    fail<UsageError>("config.scaling is {}, a number or \"learned\" is read",
                     c.at("scaling").dump());
  }
  std::vector<std::string_view> known;
  for (const auto& item : usual.items()) known.push_back(item.key());
  refuse_unread(c, known);
}

// Layers of each stack; numbering goes on from the first to the second.
std::vector<std::int64_t> stacks(const Backbone& backbone) {
  std::vector<std::int64_t> out{backbone.config().layers};
  if (is_encoder_decoder(backbone)) {
    out.push_back(backbone.config().decoder_layers);
  }
  return out;
}

// The layers that drop_first leaves without.
Json leave_out(std::int64_t drop_first, const Backbone& backbone) {
  Json out = Json::array();
  std::int64_t first = 0;
  for (const std::int64_t layers : stacks(backbone)) {
    for (std::int64_t i = 0; i < std::min(drop_first, layers); ++i) {
      out.push_back(first + i);
    }
    first += layers;
  }
  return out;
}

std::int64_t drop_first(const Json& left_out, const Backbone& backbone) {
  Json sorted = left_out;
  std::sort(sorted.begin(), sorted.end());
  const auto most = std::ranges::max(stacks(backbone));
  for (std::int64_t n = 0; n < most; ++n) {
    if (sorted == leave_out(n, backbone)) return n;
  }
  fail<UsageError>(
      "config.leave_out is {}, only the first layers of each stack are left "
      "out here",
      left_out.dump());
}

// A factor that makes `adapters` choose this width: floor(d / factor).
Json factor_for(std::int64_t d, std::int64_t width) {
  if (d % width == 0) return d / width;
  const auto there = [d](double factor) {
    const auto whole = static_cast<double>(d);
    return std::round((whole - std::fmod(whole, factor)) / factor);
  };
  double factor = static_cast<double>(d) / static_cast<double>(width);
  while (there(factor) < static_cast<double>(width)) {
    factor = std::nextafter(factor, 0.0);
  }
  return factor;
}

// `adapters` puts nothing before T5's stacks, else the model's own name.
std::string shared_stem(const Backbone& backbone) {
  std::string stem;
  for (const Site& site : backbone.sites()) {
    if (site.kind != SiteKind::kSublayer) continue;
    const std::string first = site.name.substr(0, site.name.find('.') + 1);
    if (!stem.empty() && stem != first) return "";
    stem = first;
  }
  return stem;
}

// Where an entry of ours lies.
std::string name_there(const std::string& entry, const std::string& adapter,
                       const Backbone& backbone) {
  if (entry.starts_with(kOurShared)) {
    return fmt::format("{}shared_parameters.{}.{}", shared_stem(backbone),
                       adapter, entry.substr(kOurShared.size()));
  }
  const std::size_t at = entry.find(kOurs);
  return entry.substr(0, at) + ".adapters." + adapter + "." +
         entry.substr(at + kOurs.size());
}

// T5's flexible class has all under `transformer.`, a bare base model nothing
// of its own name.
std::vector<std::string> other_names(const std::string& name,
                                     const Backbone& backbone) {
  std::vector<std::string> out{"transformer." + name};
  const std::string stem = shared_stem(backbone);
  if (!stem.empty() && name.starts_with(stem)) {
    out.push_back(name.substr(stem.size()));
  }
  return out;
}

class Bottleneck : public AdapterFormat {
 public:
  std::string_view library() const override { return "adapterhub"; }
  std::string_view kind() const override {
    return "a folder of AdapterHub's bottleneck adapters";
  }
  std::vector<std::string_view> methods() const override {
    return {"houlsby", "pfeiffer", "parallel_adapter", "compacter",
            "phm_adapter"};
  }

  bool is(const Json& config) const override {
    const Json inner = config.value("config", Json());
    return inner.is_object() && !inner.contains("architecture");
  }

  EqualMethod method(const Json& config,
                     const Backbone& backbone) const override {
    check_architecture(backbone);
    check_model(config, backbone);
    Json c = defaults();
    c.update(config.at("config"));
    check(c);
    const bool learned = c["scaling"] == "learned";
    std::string activation = c["non_linearity"].get<std::string>();
    std::ranges::transform(activation, activation.begin(), [](char letter) {
      return letter >= 'A' && letter <= 'Z' ? letter - 'A' + 'a' : letter;
    });
    if (activation == "silu") activation = "swish";
    Config given = {{"reduction_factor", c["reduction_factor"].get<double>()},
                    {"non_linearity", activation},
                    {"self_attention", c["mh_adapter"].get<bool>()},
                    {"cross_adapter", c["cross_adapter"].get<bool>()},
                    {"scaling", learned ? 1.0 : c["scaling"].get<double>()},
                    {"learn_scaling", learned},
                    {"dropout", c["dropout"].get<double>()},
                    {"drop_first", drop_first(c["leave_out"], backbone)},
                    {"layer_norms", false}};
    const bool normed = c["original_ln_before"].get<bool>();
    const bool parallel = c["is_parallel"].get<bool>();
    if (!c["phm_layer"].get<bool>()) {
      return {parallel ? "parallel_adapter"
              : normed ? "pfeiffer"
                       : "houlsby",
              given};
    }
    if (parallel) {
      fail<UsageError>("config.phm_layer with is_parallel is not read");
    }
    const bool factored = c["factorized_phm_W"].get<bool>();
    given["phm_dim"] = c["phm_dim"].get<std::int64_t>();
    given["phm_rank"] = factored ? c["phm_rank"].get<std::int64_t>() : 0;
    given["shared_rule"] = c["shared_phm_rule"].get<bool>();
    given["normed_input"] = normed;
    return {factored ? "compacter" : "phm_adapter", given};
  }

  Json config(const WriteContext& context) const override {
    check_architecture(context.backbone);
    const Config& m = context.method;
    const std::string id = m.at("method").get<std::string>();
    const ModelConfig& model = context.backbone.config();
    if (m.at("layer_norms").get<bool>()) {
      fail<UsageError>(
          "{}: the model's layer norms train too, for which AdapterHub has no "
          "place; train with layer_norms: false what it shall read",
          id);
    }
    Json c = defaults();
    c["mh_adapter"] = m.at("self_attention").get<bool>();
    c["cross_adapter"] = m.at("cross_adapter").get<bool>();
    c["non_linearity"] = m.at("non_linearity").get<std::string>();
    c["dropout"] = m.at("dropout").get<double>();
    c["leave_out"] =
        leave_out(m.at("drop_first").get<std::int64_t>(), context.backbone);
    c["is_parallel"] = id == "parallel_adapter";
    c["original_ln_before"] =
        id == "pfeiffer" || m.value("normed_input", false);
    // A whole number would not be taken for one: scaling is a Python float.
    c["scaling"] = m.at("learn_scaling").get<bool>()
                       ? Json("learned")
                       : Json(m.at("scaling").get<double>());
    c["reduction_factor"] = factor_for(model.d_model, width(context));
    if (m.contains("init") && m.at("init") == "lora") {
      c["init_weights"] = "mam_adapter";
    }
    if (m.contains("phm_dim")) {
      const auto rank = m.at("phm_rank").get<std::int64_t>();
      c["phm_layer"] = true;
      c["phm_dim"] = m.at("phm_dim").get<std::int64_t>();
      c["factorized_phm_W"] = rank > 0;
      if (rank > 0) c["phm_rank"] = rank;
      c["shared_phm_rule"] = m.at("shared_rule").get<bool>();
    }
    Json out = about_model(context);
    out["config"] = std::move(c);
    out["name"] = context.name;
    return out;
  }

  std::map<std::string, Json> more(const WriteContext& context) const override {
    if (std::ranges::none_of(context.delta.entries(), &DeltaEntry::head)) {
      return {};
    }
    const Json model = hf_config(context.backbone);
    Json head = about_model(context);
    head["config"] = nullptr;
    head["name"] = nullptr;
    head["label2id"] = model.value("label2id", Json::object());
    head["num_labels"] = head["label2id"].size();
    return {{"head_config.json", std::move(head)}};
  }

  std::vector<DiskTensor> tensors(const Delta& delta, const Backbone& backbone,
                                  const Json& config) const override {
    const std::string adapter = config.at("name").get<std::string>();
    std::vector<DiskTensor> out;
    for (const DeltaEntry& e : delta.entries()) {
      if (e.head) {
        out.push_back(disk_tensor(kHead, e.target, e));
        continue;
      }
      if (e.name.find(kOurs) == std::string::npos &&
          !e.name.starts_with(kOurShared)) {
        continue;
      }
      const std::string name = name_there(e.name, adapter, backbone);
      out.push_back(disk_tensor(kWeights, name, e));
      out.back().also = other_names(name, backbone);
    }
    return out;
  }

 private:
  // Where AdapterHub puts adapters into other models is not written down here.
  static void check_architecture(const Backbone& backbone) {
    constexpr std::string_view kKnown[] = {"bert", "roberta", "t5"};
    const std::string& here = backbone.config().architecture;
    if (std::ranges::find(kKnown, here) != std::end(kKnown)) return;
    fail<UsageError>("AdapterHub's folders are read and written of {}, not {}",
                     fmt::join(kKnown, ", "), here);
  }

  static void check_model(const Json& config, const Backbone& backbone) {
    const ModelConfig& model = backbone.config();
    const std::pair<const char*, Json> kMust[] = {
        {"hidden_size", model.d_model}, {"model_type", model.architecture}};
    for (const auto& [key, here] : kMust) {
      const Json there = config.value(key, Json());
      if (there.is_null() || there == here) continue;
      fail<UsageError>(
          "{} is {}, of this model it is {}: the adapter was made for another",
          key, there.dump(), here.dump());
    }
  }

  static std::int64_t width(const WriteContext& context) {
    const Config& m = context.method;
    if (!m.at("bottleneck").is_null()) {
      return m.at("bottleneck").get<std::int64_t>();
    }
    return static_cast<std::int64_t>(
        static_cast<double>(context.backbone.config().d_model) /
        m.at("reduction_factor").get<double>());
  }

  static Json about_model(const WriteContext& context) {
    const Json model = hf_config(context.backbone);
    const Json classes = model.value("architectures", Json::array());
    return {{"hidden_size", context.backbone.config().d_model},
            {"model_class", classes.empty() ? Json() : classes[0]},
            {"model_name", context.model_path},
            {"model_type", context.backbone.config().architecture},
            {"version", "adapters.1.3.0"}};
  }
};

}  // namespace

const AdapterFormat& adapterhub_bottleneck_format() {
  static const Bottleneck kFormat;
  return kFormat;
}

}  // namespace thinwire
