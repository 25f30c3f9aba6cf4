// T5's pre-training: text with spans cut out goes in, the spans come out.
// Raffel et al. 2020, "Exploring the limits of transfer learning", sec. 3.1.4.
// The spans are chosen when the data is prepared; from there on it is text to
// text, except that what counts is the loss.
#include "tasks/text_to_text.h"
#include "tasks/writing_task.h"

namespace thinwire {

const TaskInfo& span_corruption_task() {
  static const TaskInfo kInfo = {
      "span_corruption", "T5's pre-training: fill in the spans that were cut",
      writing_fields(), [](const TaskConfig& config) {
        return make_text_to_text("span_corruption", config);
      }};
  return kInfo;
}

}  // namespace thinwire
