// The verbs of the program, one file each.
#pragma once

#include "launch/verb.h"

namespace thinwire {

extern const Verb kTrainVerb, kEvalVerb, kPredictVerb, kMaskVerb, kForwardVerb,
    kInspectVerb, kMergeVerb, kExportVerb, kImportVerb, kDeltaVerb, kDataVerb,
    kBenchVerb, kListVerb, kEnvVerb, kSearchVerb;

}  // namespace thinwire
