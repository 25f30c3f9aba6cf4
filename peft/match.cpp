#include <regex>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "peft/method.h"

namespace thinwire {
namespace {

bool is_regex(const std::string& text) {
  return text.find_first_of("*+?()[]{}|\\^$") != std::string::npos;
}

bool suffix_on_dot(std::string_view name, std::string_view item) {
  return name == item || (name.size() > item.size() && name.ends_with(item) &&
                          name[name.size() - item.size() - 1] == '.');
}

// Last components of the linear modules' names, each once, as one would write
// them: "query, key, value, dense".
std::vector<std::string> short_names(const Backbone& backbone) {
  std::vector<std::string> out;
  for (const Site& s : backbone.sites()) {
    if (s.kind != SiteKind::kLinear) continue;
    std::string last = s.name.substr(s.name.rfind('.') + 1);
    if (std::find(out.begin(), out.end(), last) == out.end()) {
      out.push_back(std::move(last));
    }
  }
  return out;
}

}  // namespace

std::vector<int> match_linear_sites(const Backbone& backbone,
                                    std::span<const std::string> targets,
                                    std::string_view method) {
  const bool all = targets.size() == 1 && targets[0] == "all-linear";
  const bool pattern = !all && targets.size() == 1 && is_regex(targets[0]);
  std::regex regex;
  if (pattern) {
    try {
      regex = std::regex(targets[0], std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
      fail<UsageError>("{}: target_modules '{}' is no regular expression: {}",
                       method, targets[0], error.what());
    }
  }
  std::vector<int> out;
  std::vector<bool> used(targets.size(), all);
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    const Site& site = backbone.sites()[i];
    if (site.kind != SiteKind::kLinear) continue;
    bool hit = false;
    if (all) {
      hit = site.role != Role::kHead;
    } else if (pattern) {
      hit = std::regex_match(site.name, regex);
      if (hit) used[0] = true;
    } else {
      for (std::size_t t = 0; t < targets.size(); ++t) {
        if (!suffix_on_dot(site.name, targets[t])) continue;
        hit = used[t] = true;
      }
    }
    if (hit) out.push_back(static_cast<int>(i));
  }
  for (std::size_t t = 0; t < targets.size(); ++t) {
    if (used[t]) continue;
    fail<UsageError>(
        "{}: target_modules: no linear module is named '{}'; this {} has: {} "
        "(or all-linear)",
        method, targets[t], backbone.config().architecture,
        list_nearest_first(targets[t], short_names(backbone)));
  }
  if (out.empty()) {
    fail<UsageError>("{}: target_modules is empty; this {} has: {}", method,
                     backbone.config().architecture,
                     fmt::join(short_names(backbone), ", "));
  }
  return out;
}

}  // namespace thinwire
