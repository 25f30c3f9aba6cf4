// task.label_smoothing, of the tasks whose training loss is a cross-entropy.
// Evaluation, and scores that choose a mask, take the plain loss. Internal to
// tasks/.
#pragma once

#include "base/field.h"
#include "tasks/task.h"

namespace thinwire {

inline constexpr Field kLabelSmoothing = {
    "label_smoothing", FieldType::kFloat, "0",
    "in training, of each label's weight so much is spread over all classes "
    "or tokens, as torch and HF's LabelSmoother do"};

// In [0, 1), else UsageError.
double read_label_smoothing(const TaskConfig& config);

}  // namespace thinwire
