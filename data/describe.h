// A folder of shards in words and numbers, for `thinwire data describe`.
#pragma once

#include <string>

namespace thinwire {

class ShardFolder;

// Several lines, each ended by a newline: task, counts, percentiles of the
// lengths in tokens, and how often each label occurs. Reads every label.
std::string describe(const ShardFolder& folder);

}  // namespace thinwire
