// Adapter folders of HF peft: adapter_config.json + adapter_model.safetensors,
// read into a delta. LoRA, rank-stabilised too, with modules_to_save for heads.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "peft/method.h"

namespace thinwire {

struct HfAdapter {
  std::unique_ptr<Method> method;
  Delta delta;                               // neither bound nor attached
  std::map<std::string, std::string> names;  // of entries: as on disk
};

// What of an adapter folder decides which task head the backbone needs:
// peft's task_type ("SEQ_CLS", …, "" if unset) and the rows of a saved
// `classifier`, 0 if there is none. Throws like read_hf_adapter.
struct HfAdapterHead {
  std::string task_type;
  std::int64_t labels = 0;
};
HfAdapterHead read_hf_adapter_head(const std::string& folder);

// Throws UsageError or IoError naming the file and key, tensor or module that
// does not fit this backbone or that is not read (DoRA, biases, embeddings).
HfAdapter read_hf_adapter(const std::string& folder, const Backbone& backbone);

}  // namespace thinwire
