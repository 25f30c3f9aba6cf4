// Features of a run's training samples: what a network beside the frozen
// backbone reads of it, made once, kept in a folder (docs/feature_cache.md) and
// read in place of running the backbone again.
//
// The folder is filled before the first step that reads it. What each of its
// files holds is a function of backbone, layers and samples alone: not of the
// run, its ranks or its batches. So a run that was killed while it filled it
// goes on with the files that are missing, and a run that reads it is the same
// however often it was broken off.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "data/feature_folder.h"
#include "dist/trainer.h"

namespace thinwire {

// The folder options.cache, filled by all ranks together where features are
// missing; it must be one that all of them see. `delta` is bound and attached;
// `before`: what an earlier call gave, null: none. Blocks on all ranks. Throws
// on all alike: UsageError where something in the backbone moves, where
// the folder holds those of another backbone, data or layers, where there is no
// room, or where reading would not be faster; IoError where a file cannot be
// written, with what was made kept.
std::shared_ptr<const FeatureFolder> open_features(
    const TrainRun& run, const Delta& delta, std::int64_t steps,
    TrainObserver& observer, std::shared_ptr<const FeatureFolder> before);

// Puts the samples' features, where they carry them, in the place of a pass.
void give_features(const Backbone& backbone, std::span<const Sample> samples,
                   BackboneInput& in);

}  // namespace thinwire
