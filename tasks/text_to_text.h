// Text in, text out, by an encoder-decoder and its own output embedding:
// cross-entropy over target tokens. Internal to tasks/.
#pragma once

#include <string_view>

#include "tasks/task.h"

namespace thinwire {

// kind: text_to_text, or another task whose samples look the same.
std::unique_ptr<Task> make_text_to_text(std::string_view kind,
                                        const TaskConfig& config);

}  // namespace thinwire
