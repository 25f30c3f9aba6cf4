#include "peft/match.h"

#include <algorithm>
#include <optional>
#include <regex>

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

std::string called(const SiteQuery& query, const Site& site) {
  return query.called ? query.called(site) : site.name;
}

// Last components of the sites' names, each once, as one would write them:
// "query, key, value, dense".
std::vector<std::string> short_names(const Backbone& backbone,
                                     const SiteQuery& query) {
  std::vector<std::string> out;
  for (const Site& s : backbone.sites()) {
    if (!query.takes(s)) continue;
    std::string last = s.name.substr(s.name.rfind('.') + 1);
    if (std::find(out.begin(), out.end(), last) == out.end()) {
      out.push_back(std::move(last));
    }
  }
  return out;
}

std::optional<std::regex> pattern_of(std::span<const std::string> targets,
                                     const SiteQuery& query) {
  if (targets.size() != 1 || !is_regex(targets[0])) return std::nullopt;
  try {
    return std::regex(targets[0], std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    fail<UsageError>("{}: {} '{}' is no regular expression: {}", query.method,
                     query.key, targets[0], error.what());
  }
}

}  // namespace

std::vector<int> match_sites(const Backbone& backbone,
                             std::span<const std::string> targets,
                             const SiteQuery& query) {
  const std::optional<std::regex> regex = pattern_of(targets, query);
  std::vector<int> out;
  std::vector<bool> used(targets.size(), false);
  for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
    const Site& site = backbone.sites()[i];
    if (!query.takes(site)) continue;
    const std::string name = called(query, site);
    bool hit = false;
    for (std::size_t t = 0; t < targets.size(); ++t) {
      if (regex ? !std::regex_match(name, *regex)
                : !suffix_on_dot(name, targets[t])) {
        continue;
      }
      hit = used[t] = true;
    }
    if (hit) out.push_back(static_cast<int>(i));
  }
  for (std::size_t t = 0; t < targets.size() && !query.some; ++t) {
    if (used[t]) continue;
    fail<UsageError>(
        "{}: {}: no {} is named '{}'; this {} has: {}{}", query.method,
        query.key, query.what, targets[t], backbone.config().architecture,
        list_nearest_first(targets[t], short_names(backbone, query)),
        query.more);
  }
  if (out.empty() && !query.some) {
    fail<UsageError>("{}: {} is empty; this {} has: {}", query.method,
                     query.key, backbone.config().architecture,
                     fmt::join(short_names(backbone, query), ", "));
  }
  return out;
}

std::vector<int> match_linear_sites(const Backbone& backbone,
                                    std::span<const std::string> targets,
                                    std::string_view method) {
  if (targets.size() == 1 && targets[0] == "all-linear") {
    std::vector<int> all;
    for (std::size_t i = 0; i < backbone.sites().size(); ++i) {
      const Site& site = backbone.sites()[i];
      if (site.kind == SiteKind::kLinear && site.role != Role::kHead) {
        all.push_back(static_cast<int>(i));
      }
    }
    return all;
  }
  return match_sites(
      backbone, targets,
      {.method = method,
       .key = "target_modules",
       .what = "linear module",
       .more = " (or all-linear)",
       .takes = [](const Site& s) { return s.kind == SiteKind::kLinear; }});
}

}  // namespace thinwire
