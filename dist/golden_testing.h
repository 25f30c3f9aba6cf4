// What the tests of whole runs against PyTorch share: the samples of a golden
// file as a folder, and what a run made of the delta.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "dist/testing.h"
#include "models/safetensors.h"
#include "tests/harness/golden.h"

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

// By entry: values, and what they are of its tensor (whole: undefined).
using Trained = std::map<std::string, std::pair<at::Tensor, at::Tensor>>;

// Keeps in `out` what the delta holds after the run's step `last`.
inline void keep_after(std::int64_t last, Recorder& seen, Trained& out) {
  seen.on_step = [last, &seen, &out](const StepRecord& r) {
    if (r.step < last) return;
    const Delta& d = *seen.delta;
    for (const DeltaEntry& e : d.entries()) {
      out[e.name] = {d.values().narrow(0, e.offset, e.count).clone(), e.index};
    }
  };
}

// The file's `final.NAME` and `index.NAME`, all of them and no others.
inline void expect_final(const SafetensorsFile& file, const Trained& trained) {
  std::size_t expected = 0;
  for (const std::string& name : file.names()) {
    expected += name.starts_with("final.");
  }
  EXPECT_EQ(trained.size(), expected);
  for (const auto& [name, entry] : trained) {
    const auto& [values, index] = entry;
    ASSERT_TRUE(file.contains("final." + name)) << name;
    const at::Tensor want = file.tensor("final." + name);
    EXPECT_TRUE(golden_close(name, values.view(want.sizes()), want, 2e-5));
    if (index.defined()) {
      EXPECT_TRUE(index.equal(file.tensor("index." + name))) << name;
    }
  }
}

}  // namespace thinwire::trial
