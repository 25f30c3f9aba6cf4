// A model and what was trained on it, apart from any run: what the verbs begin
// with that look at a saved delta or adapter, convert it or merge it.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/open_model.h"
#include "launch/verb.h"
#include "peft/delta_file.h"
#include "peft/interop/adapter_folder.h"
#include "tasks/task.h"

namespace thinwire {

class Communicator;

struct AdaptedModel {
  std::string path;    // the model's, as it was given; "": random weights
  std::string folder;  // on this host; "": random weights
  std::unique_ptr<Backbone> backbone;  // head added
  Digest identity;
  std::unique_ptr<Task> task;  // null: the bare base model
  std::vector<std::unique_ptr<Method>> methods;
  std::optional<Delta> delta;    // neither bound nor attached; none: bare
  std::vector<DiskTensor> disk;  // of an adapter's folder: its entries' places
};

// Throw UsageError or IoError. The task, and so the head, is what config.json's
// `architectures` or a saved head ask for.
AdaptedModel open_bare(const std::string& model, Communicator& comm);
AdaptedModel open_adapter(const std::string& model, const std::string& folder,
                          Communicator& comm);
// file: for messages. The methods are those that made the delta.
AdaptedModel open_delta(const ModelChoice& model, DeltaFile loaded,
                        const std::string& file, Communicator& comm);

// The same from a verb's DELTA, a delta file or a checkpoint or run folder, and
// --model, without which a run folder's config says it.
AdaptedModel open_delta(const Arguments& arguments, Communicator& comm);

// Several ranks would write the same file.
void require_one_rank(std::string_view verb, const Communicator& comm);

}  // namespace thinwire
