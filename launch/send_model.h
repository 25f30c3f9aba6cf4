// Copies a model folder to hosts that lack it, in bounded pieces.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace thinwire {

class Communicator;

// Collective over `group`. Rank 0 has `files` (paths); the others get them,
// under their last names, in the new folder `to`, which appears when it is
// whole. Logs what is sent. Throws UsageError or IoError on all alike.
void send_model(Communicator& group, std::span<const std::string> files,
                const std::string& to);

}  // namespace thinwire
