#include "launch/verb.h"

#include "launch/verbs/verbs.h"

namespace thinwire {

std::string Arguments::get(const std::string& name,
                           std::string otherwise) const {
  const auto found = values_.find(name);
  if (found == values_.end() || found->second.empty()) return otherwise;
  return found->second.back();
}

std::vector<std::string> Arguments::all(const std::string& name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

std::span<const Verb* const> verbs() {
  static constexpr const Verb* kVerbs[] = {
      &kTrainVerb,   &kEvalVerb,  &kPredictVerb, &kMaskVerb,   &kForwardVerb,
      &kInspectVerb, &kMergeVerb, &kExportVerb,  &kImportVerb, &kDeltaVerb,
      &kDataVerb,    &kBenchVerb, &kListVerb,    &kEnvVerb,    &kSearchVerb,
  };
  return kVerbs;
}

}  // namespace thinwire
