// The ranks of one host open one model together: its digests, each rank a part,
// and the prepared file, if one is needed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/config.h"
#include "models/backbone.h"
#include "models/host_store.h"
#include "models/store_folder.h"
#include "models/tensor_source.h"

namespace thinwire {

class Communicator;

// A model, opened; none of its weights read.
struct ModelFiles {
  ModelConfig config;
  std::shared_ptr<TensorSource> source;
  StorePlan plan;
  FileState state;
  bool ours = false;  // received and written by this job: nobody changes them
};

// folder: "" for random weights. Throws UsageError or IoError.
ModelFiles open_files(const ModelChoice& choice, const std::string& folder);

struct HostModel {
  std::unique_ptr<Backbone> backbone;
  std::vector<Digest> digests;  // in the plan's order
  std::int64_t shared_bytes = 0;
};

// Collective over the ranks of one host, which opened the same files. cache:
// model.cache of the config. Throws on all of them alike.
HostModel start_on_host(Communicator& host, const ModelFiles& files,
                        const std::string& cache);

}  // namespace thinwire
