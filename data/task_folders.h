// The folders of several tasks as one folder.
#pragma once

#include <memory>
#include <vector>

#include "data/shard_folder.h"

namespace thinwire {

// The folder, its samples of task `task`, whatever its shards say, with random
// numbers that are no other task's (Sample::salt).
std::shared_ptr<const ShardFolder> as_task(
    std::shared_ptr<const ShardFolder> folder, std::int32_t task);

// Their samples one after the other; folder i and its part are as_task(i). What
// index() says of all is what the first says, sizes the largest. Throws
// UsageError (both paths) where kind of task or tokenizer differ.
std::shared_ptr<const ShardFolder> join_task_folders(
    const std::vector<std::shared_ptr<const ShardFolder>>& folders);

}  // namespace thinwire
