// What the tests of whole runs against PyTorch share: the samples of a golden
// file as a folder, and what a run made of the delta.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "dist/testing.h"
#include "models/safetensors.h"

namespace thinwire::trial {

// Of the file's input_ids, attention_mask and labels.
inline std::shared_ptr<const ShardFolder> golden_folder(
    const SafetensorsFile& file) {
  const at::Tensor ids = file.tensor("input_ids");
  const at::Tensor mask = file.tensor("attention_mask");
  const at::Tensor labels = file.tensor("labels");
  std::vector<Sample> samples;
  for (std::int64_t i = 0; i < ids.size(0); ++i) {
    Sample s;
    s.id = static_cast<std::uint64_t>(i);
    s.label = static_cast<double>(labels[i].item<std::int64_t>());
    for (std::int64_t j = 0; j < ids.size(1); ++j) {
      if (mask[i][j].item<std::int64_t>() == 0) break;
      s.input.push_back(
          static_cast<std::int32_t>(ids[i][j].item<std::int64_t>()));
    }
    samples.push_back(std::move(s));
  }
  ShardIndex index;
  index.task_kind = "classify";
  index.labels = 3;
  index.vocab_size = 37;
  index.max_input = ids.size(1);
  return std::make_shared<MemoryFolder>(std::move(samples), index);
}

}  // namespace thinwire::trial
