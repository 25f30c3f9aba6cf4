#include "tasks/judged_texts.h"

#include "base/error.h"
#include "base/nearest.h"
#include "tasks/text_metrics.h"

namespace thinwire {
namespace {

constexpr Field kFields[] = {
    {"metrics", FieldType::kStrings, "~",
     "of written texts against the shards' references: rouge, bleu, squad; "
     "evaluation then writes every text"},
    {"rouge_stemmer", FieldType::kBool, "false",
     "rouge: compare words by their Porter stems"},
};

// Reads figures in the order in which figures() wrote them.
class Cursor {
 public:
  explicit Cursor(const std::vector<double>& figures) : figures_(figures) {}
  double next() {
    THINWIRE_ASSERT(at_ < figures_.size(), "figure {} of {}", at_,
                    figures_.size());
    return figures_[at_++];
  }

 private:
  const std::vector<double>& figures_;
  std::size_t at_ = 0;
};

}  // namespace

std::span<const Field> judged_texts_fields() { return kFields; }

JudgedTexts::JudgedTexts(const TaskConfig& config) {
  config.at("rouge_stemmer").get_to(stem_);
  const auto& names = config.at("metrics");
  if (names.is_null()) return;
  for (const auto& name : names.get<std::vector<std::string>>()) {
    const char* main = nullptr;
    if (name == "rouge") {
      rouge_ = true;
      main = "rouge_l";
    } else if (name == "bleu") {
      bleu_ = true;
      main = "bleu";
    } else if (name == "squad") {
      squad_ = true;
      main = "f1";
    } else {
      fail<UsageError>("task.metrics: '{}' is unknown; choose of: {}", name,
                       list_nearest_first(name, {"bleu", "rouge", "squad"}));
    }
    if (main_.empty()) main_ = main;
  }
}

std::vector<double> JudgedTexts::figures(
    const std::string& text, std::span<const std::string> references) const {
  std::vector<double> out;
  if (rouge_) {
    const Rouge r = rouge(text, references, stem_);
    out.insert(out.end(), {r.rouge1, r.rouge2, r.rouge_l});
  }
  if (bleu_) {
    const BleuCounts c = bleu_counts(text, references);
    out.insert(out.end(), {c.length, c.reference_length});
    out.insert(out.end(), c.matches.begin(), c.matches.end());
    out.insert(out.end(), c.total.begin(), c.total.end());
  }
  if (squad_) {
    const Squad s = squad(text, references);
    out.insert(out.end(), {s.exact_match, s.f1});
  }
  return out;
}

void JudgedTexts::add_to(Metrics& metrics,
                         std::span<const EvalRow> rows) const {
  Rouge rouge_sum;
  BleuCounts corpus;
  Squad squad_sum;
  for (const EvalRow& row : rows) {
    Cursor cursor(row.figures);
    if (rouge_) {
      rouge_sum.rouge1 += cursor.next();
      rouge_sum.rouge2 += cursor.next();
      rouge_sum.rouge_l += cursor.next();
    }
    if (bleu_) {
      BleuCounts c;
      c.length = cursor.next();
      c.reference_length = cursor.next();
      for (double& x : c.matches) x = cursor.next();
      for (double& x : c.total) x = cursor.next();
      corpus += c;
    }
    if (squad_) {
      squad_sum.exact_match += cursor.next();
      squad_sum.f1 += cursor.next();
    }
  }
  const auto n = static_cast<double>(rows.size());
  if (rouge_) {
    metrics["rouge1"] = rouge_sum.rouge1 / n;
    metrics["rouge2"] = rouge_sum.rouge2 / n;
    metrics["rouge_l"] = rouge_sum.rouge_l / n;
  }
  if (bleu_) metrics["bleu"] = bleu(corpus);
  if (squad_) {
    metrics["exact_match"] = squad_sum.exact_match / n;
    metrics["f1"] = squad_sum.f1 / n;
  }
}

}  // namespace thinwire
