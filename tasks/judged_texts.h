// The metrics that a task takes of written texts, as its config names them.
// Internal to tasks/.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/field.h"
#include "tasks/task.h"

namespace thinwire {

// Fields of every task that writes text.
std::span<const Field> judged_texts_fields();

class JudgedTexts {
 public:
  // Throws UsageError on a name that is none.
  explicit JudgedTexts(const TaskConfig& config);

  bool any() const { return rouge_ || bleu_ || squad_; }
  // The sums that add_to() takes its means of.
  std::vector<double> figures(const std::string& text,
                              std::span<const std::string> references) const;
  // rouge: rouge1, rouge2, rouge_l, means over the texts; bleu: of the corpus;
  // squad: exact_match, f1, means.
  void add_to(Metrics& metrics, std::span<const EvalRow> rows) const;
  // Of the first metric named; empty without any.
  std::string_view main_metric() const { return main_; }

 private:
  bool rouge_ = false, bleu_ = false, squad_ = false, stem_ = false;
  std::string_view main_;
};

}  // namespace thinwire
