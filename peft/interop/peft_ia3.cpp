// IA3 folders of HF peft: one vector of each module, [out, 1], or [1, in] for
// modules of feedforward_modules.
#include <algorithm>

#include "base/error.h"
#include "peft/interop/peft_common.h"

namespace thinwire {
namespace {

constexpr std::string_view kTail = ".ia3_l";

bool is_vector(const DeltaEntry& e) { return e.name.ends_with(kTail); }

std::string module_of(const DeltaEntry& e) {
  return e.name.substr(kPeftWrapper.size(),
                       e.name.size() - kPeftWrapper.size() - kTail.size());
}

class PeftIa3 : public AdapterFormat {
 public:
  std::string_view library() const override { return "peft"; }
  std::string_view kind() const override { return "an IA3 folder of HF peft"; }
  std::vector<std::string_view> methods() const override { return {"ia3"}; }

  bool is(const Json& config) const override {
    return config.value("peft_type", Json()) == "IA3";
  }

  EqualMethod method(const Json& config,
                     const Backbone& backbone) const override {
    refuse_unread(config,
                  peft_keys({"feedforward_modules", "init_ia3_weights"}));
    for (const char* key : {"target_modules", "feedforward_modules"}) {
      if (!config.value(key, Json()).is_null()) continue;
      fail<UsageError>("{} is missing: it decides which vectors there are",
                       key);
    }
    const auto targets =
        peft_targets(config["target_modules"], "target_modules", backbone);
    Config given = {{"target_modules", short_targets(targets, backbone)}};
    const Json& inputs = config["feedforward_modules"];
    if (!inputs.empty()) {
      // Modules that are no targets have no vector to scale their input with.
      std::vector<std::string> scaled;
      for (const auto& name :
           peft_targets(inputs, "feedforward_modules", backbone)) {
        if (std::ranges::find(targets, name) != targets.end()) {
          scaled.push_back(name);
        }
      }
      if (!scaled.empty()) {
        given["feedforward_modules"] = short_targets(scaled, backbone);
      }
    }
    return {"ia3", given};
  }

  Json config(const WriteContext& context) const override {
    std::vector<std::string> modules, inputs;
    for (const DeltaEntry& e : context.delta.entries()) {
      if (!is_vector(e)) continue;
      modules.push_back(module_of(e));
      // [1, in]; a layer of one output would be [1, 1] either way.
      if (e.shape[0] == 1) inputs.push_back(modules.back());
    }
    Json out = peft_config(context, "IA3");
    out.update({{"exclude_modules", nullptr},
                {"fan_in_fan_out", lies_in_out(modules, context.backbone)},
                {"init_ia3_weights", true},
                {"target_modules", short_targets(modules, context.backbone)},
                {"feedforward_modules", Json::array()}});
    if (!inputs.empty()) {
      out["feedforward_modules"] = short_targets(inputs, context.backbone);
    }
    return out;
  }

  std::vector<DiskTensor> tensors(const Delta& delta, const Backbone& backbone,
                                  const Json&) const override {
    std::vector<DiskTensor> out;
    for (const DeltaEntry& e : delta.entries()) {
      if (is_vector(e)) out.push_back(peft_module_tensor(e, backbone));
    }
    add_peft_heads(out, delta, backbone, kPeftWrapper);
    return out;
  }
};

}  // namespace

const AdapterFormat& peft_ia3_format() {
  static const PeftIa3 kFormat;
  return kFormat;
}

}  // namespace thinwire
