#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "tasks/writing_task.h"

#include "tasks/generate.h"
#include "tasks/label_smoothing.h"

namespace thinwire {

WritingTask::WritingTask(const TaskConfig& config)
    : TokenTask(read_label_smoothing(config)),
      decoding_(read_decoding(config)),
      judged_(config) {}

std::vector<Prediction> WritingTask::write(Backbone& backbone,
                                           const BackboneInput& in,
                                           const ForwardContext& ctx) const {
  auto texts = generate(backbone, in, ctx, decoding_);
  std::vector<Prediction> out(texts.size());
  for (std::size_t b = 0; b < out.size(); ++b) {
    out[b].sample = in.sample_ids[b];
    out[b].value = texts[b].score;
    out[b].tokens = std::move(texts[b].tokens);
  }
  return out;
}

std::span<const Field> writing_fields() {
  static const auto kFields = [] {
    std::vector<Field> out(decoding_fields().begin(), decoding_fields().end());
    const auto more = judged_texts_fields();
    out.insert(out.end(), more.begin(), more.end());
    out.push_back(kLabelSmoothing);
    return out;
  }();
  return kFields;
}

}  // namespace thinwire
