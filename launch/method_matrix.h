// Which method works on which backbone: found by declaring each on a model of
// every architecture that holds no numbers.
#pragma once

#include <string>
#include <vector>

#include "models/backbone.h"
#include "peft/method.h"

namespace thinwire {

// "yes"; "with FIELD" where it does once this flag is turned over; "-".
std::string fit(const MethodInfo& method, const Backbone& backbone);

// Of one layer a stack, of a public model's width, with a classifier where the
// architecture is an encoder; its weights are zeros. Throws UsageError for an
// architecture that backbone_names() lacks.
std::unique_ptr<Backbone> blank_backbone(const std::string& architecture);

// A header, then one row for each method: id, a cell for each of
// backbone_names().
std::vector<std::vector<std::string>> method_matrix();

}  // namespace thinwire
