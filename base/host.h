// Which processes share memory and files.
#pragma once

#include "base/hash.h"

namespace thinwire {

// Equal for processes that run on the same kernel and see the same files;
// differs between containers of one machine. $THINWIRE_HOST, when set, is mixed
// in, to tell apart what only pretends to be several hosts.
Digest this_host();

}  // namespace thinwire
