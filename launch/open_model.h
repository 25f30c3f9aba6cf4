// Opens the backbone that a config names, on all ranks: by digest. Nobody is
// sent weights that its host has; a host holds them once, however many ranks
// run on it (models/host_store.h); ranks agree on the identity before step 1.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "launch/config.h"
#include "models/backbone.h"

namespace thinwire {

class Communicator;

struct OpenModel {
  std::unique_ptr<Backbone> backbone;
  Digest identity;     // of the weights as loaded, heads left out
  std::string folder;  // the model's on this host; "" for random weights
  // Of the weights: bytes that all ranks of a host share, and this rank's own.
  std::int64_t shared_bytes = 0, private_bytes = 0;
  // Bytes that would be shared if several ranks ran on a host.
  std::int64_t sharable_bytes = 0;
  std::int64_t received_bytes = 0;  // from other ranks, for all this
};

// The backbone without a task head. The folder may have another name on every
// host (choice.path is this rank's), and be missing on some: those are sent it
// into their cache. Blocks on all ranks. Throws UsageError or IoError on all
// alike, naming the first tensor that differs between two ranks.
OpenModel open_model(const ModelChoice& choice, Communicator& comm);

}  // namespace thinwire
