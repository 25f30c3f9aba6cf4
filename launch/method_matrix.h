// Which method works on which backbone: found by declaring each on a model of
// every architecture that holds no numbers.
#pragma once

#include <string>
#include <vector>

namespace thinwire {

// A header, then one row for each method: id, and for each of backbone_names()
// "yes"; "with FIELD" where it works once this flag is turned over, or this
// number is not 0; "no".
std::vector<std::vector<std::string>> method_matrix();

}  // namespace thinwire
