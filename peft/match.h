// Sites of a backbone by the names that a list of a config gives.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/backbone.h"

namespace thinwire {

struct SiteQuery {
  std::string_view method, key;  // for messages
  std::string_view what;         // a site, as "linear module"
  std::string_view more = "";    // what else may be given
  std::function<bool(const Site&)> takes;
  // What a site is called where that is not its name.
  std::function<std::string(const Site&)> called = nullptr;
  bool some = false;  // names without a site are passed over
};

// HF peft's rule: a list matches what is named as an item or ends in "." +
// item; one item with regular-expression characters is one, for the whole name.
// In the backbone's order. Throws UsageError naming an item that is nowhere.
std::vector<int> match_sites(const Backbone& backbone,
                             std::span<const std::string> targets,
                             const SiteQuery& query);

}  // namespace thinwire
