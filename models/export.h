// A backbone out as an HF folder.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

// config.json as it was read, of fp32 and, with a classification head, of its
// class and labels.
nlohmann::json hf_config(const Backbone& backbone);

// hf_config() and model.safetensors, fp32, by HF's on-disk names: what
// every slot holds now, frozen or trained; `merged` holds (slot, tensor) pairs
// that take the place of their slots (Method::merge). Makes the folder if need
// be; either file is whole or as it was. Throws IoError.
void save_hf_folder(const Backbone& backbone, const std::string& folder,
                    const std::vector<std::pair<int, at::Tensor>>& merged = {});

}  // namespace thinwire
