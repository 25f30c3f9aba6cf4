// One constructor per architecture: reads its weights from the source, offers
// its sites. Throw UsageError where a tensor is missing or of another shape.
#pragma once

#include <memory>

#include "models/backbone.h"
#include "models/tensor_source.h"

namespace thinwire {

std::unique_ptr<Backbone> make_bart(const ModelConfig& config,
                                    TensorSource& source);
std::unique_ptr<Backbone> make_bert(const ModelConfig& config,
                                    TensorSource& source);
std::unique_ptr<Backbone> make_gpt2(const ModelConfig& config,
                                    TensorSource& source);
std::unique_ptr<Backbone> make_t5(const ModelConfig& config,
                                  TensorSource& source);

}  // namespace thinwire
