#include <algorithm>

#include "base/error.h"
#include "peft/interop/format.h"

namespace thinwire {

const AdapterFormat& peft_lora_format();
const AdapterFormat& peft_ia3_format();
const AdapterFormat& peft_prompt_tuning_format();
const AdapterFormat& peft_prefix_tuning_format();
const AdapterFormat& adapterhub_bottleneck_format();

std::span<const AdapterFormat* const> adapter_formats() {
  static const AdapterFormat* const kFormats[] = {
      &peft_lora_format(),
      &peft_ia3_format(),
      &peft_prompt_tuning_format(),
      &peft_prefix_tuning_format(),
      &adapterhub_bottleneck_format(),
  };
  return kFormats;
}

void refuse_unread(const Json& config,
                   std::span<const std::string_view> known) {
  for (const auto& [key, value] : config.items()) {
    if (std::ranges::find(known, key) != known.end()) continue;
    const bool off = value.is_null() || value == false || value == "" ||
                     value == 0 || (value.is_structured() && value.empty());
    if (off) continue;
    fail<UsageError>("{} is {}, which is not read", key, value.dump());
  }
}

bool is_encoder_decoder(const Backbone& backbone) {
  return backbone.config().layers > 0 && backbone.config().decoder_layers > 0;
}

}  // namespace thinwire
