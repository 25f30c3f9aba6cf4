// A task whose model writes text: how the tokens are chosen, and how the texts
// are judged. Internal to tasks/.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "tasks/decoding.h"
#include "tasks/judged_texts.h"
#include "tasks/token_task.h"

namespace thinwire {

class WritingTask : public TokenTask {
 public:
  // Throws UsageError for values out of range.
  explicit WritingTask(const TaskConfig& config);

  bool judges_texts() const override { return judged_.any(); }
  std::vector<double> text_figures(
      const std::string& text,
      std::span<const std::string> references) const override {
    return judged_.figures(text, references);
  }

 protected:
  // One text for each sequence of in.encoder: its answer, or what goes on from
  // it.
  std::vector<Prediction> write(Backbone& backbone, const BackboneInput& in,
                                const ForwardContext& ctx) const;
  const JudgedTexts& judged() const { return judged_; }

 private:
  Decoding decoding_;
  JudgedTexts judged_;
};

std::span<const Field> writing_fields();

}  // namespace thinwire
