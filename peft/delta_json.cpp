#include "peft/delta_json.h"

#include <array>
#include <limits>

#include "base/error.h"

namespace thinwire {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::array<std::string_view, 4> kRules = {"mean", "sum", "rank_zero",
                                                    "per_rank"};

// `word` must be one of the two; returns whether it is the second.
bool second_of(const json& j, std::string_view key, std::string_view first,
               std::string_view second) {
  const std::string word = j.at(std::string(key)).get<std::string>();
  if (word != first && word != second) {
    fail<UsageError>("{} is '{}', must be '{}' or '{}'", key, word, first,
                     second);
  }
  return word == second;
}

std::int64_t whole(const json& j, std::string_view what, std::int64_t low = 0) {
  if (!j.is_number_integer() ||
      (j.is_number_unsigned() &&
       j.get<std::uint64_t>() >
           static_cast<std::uint64_t>(
               std::numeric_limits<std::int64_t>::max()))) {
    fail<UsageError>("{} is {}, not a whole number", what, j.dump());
  }
  const auto n = j.get<std::int64_t>();
  if (n < low) fail<UsageError>("{} is {}, must be at least {}", what, n, low);
  return n;
}

}  // namespace

ordered_json layout_to_json(const Delta& delta) {
  ordered_json out;
  ordered_json& groups = out["groups"] = ordered_json::array();
  for (const DeltaGroup& g : delta.groups()) {
    groups.push_back({{"name", g.name},
                      {"lr_factor", g.lr_factor},
                      {"weight_decay_factor", g.weight_decay_factor},
                      {"decay_to_initial", g.decay_to_initial},
                      {"clip_group", g.clip_group},
                      {"codec", g.codec}});
  }
  ordered_json& entries = out["entries"] = ordered_json::array();
  for (const DeltaEntry& e : delta.entries()) {
    ordered_json j = {
        {"name", e.name},
        {"kind", e.kind == EntryKind::kDense ? "dense" : "masked"},
        {"shape", e.shape},
        {"offset", e.offset},
        {"count", e.count},
        {"target", e.target},
        {"meaning",
         e.meaning == Meaning::kAbsolute ? "absolute" : "difference"},
        {"group", e.group},
        {"head", e.head}};
    if (e.active != Activity{}) {
      j["active"] = {{"tasks", e.active.tasks},
                     {"from_step", e.active.from_step},
                     {"until_step", e.active.until_step}};
    }
    entries.push_back(std::move(j));
  }
  ordered_json& buffers = out["buffers"] = ordered_json::object();
  for (const auto& [name, buffer] : delta.buffers()) {
    buffers[name] = rule_name(buffer.rule);
  }
  ordered_json& methods = out["methods"] = ordered_json::array();
  for (const std::string& config : delta.method_configs()) {
    methods.push_back(config);
  }
  return out;
}

DeltaGroup group_from_json(const json& j) {
  DeltaGroup g;
  g.name = j.at("name").get<std::string>();
  g.lr_factor = j.at("lr_factor").get<double>();
  g.weight_decay_factor = j.at("weight_decay_factor").get<double>();
  g.decay_to_initial = j.at("decay_to_initial").get<bool>();
  g.clip_group = j.at("clip_group").get<std::string>();
  g.codec = j.at("codec").get<std::string>();
  return g;
}

DeltaEntry entry_from_json(const json& j) {
  DeltaEntry e;
  e.name = j.at("name").get<std::string>();
  e.kind = second_of(j, "kind", "dense", "masked") ? EntryKind::kMasked
                                                   : EntryKind::kDense;
  std::int64_t numel = 1;
  for (const json& d : j.at("shape")) {
    e.shape.push_back(whole(d, "a dimension"));
    if (__builtin_mul_overflow(numel, e.shape.back(), &numel)) {
      fail<UsageError>("the shape has more than 2^63 numbers");
    }
  }
  e.offset = whole(j.at("offset"), "offset");
  e.count = whole(j.at("count"), "count");
  if (e.kind == EntryKind::kDense && e.count != numel) {
    fail<UsageError>("count is {}, its shape has {} numbers", e.count, numel);
  }
  e.target = j.at("target").get<std::string>();
  e.meaning = second_of(j, "meaning", "absolute", "difference")
                  ? Meaning::kDifference
                  : Meaning::kAbsolute;
  const std::int64_t group = whole(j.at("group"), "group");
  if (group > std::numeric_limits<int>::max()) {
    fail<UsageError>("group is {}", group);
  }
  e.group = static_cast<int>(group);
  e.head = j.at("head").get<bool>();
  if (const auto active = j.find("active"); active != j.end()) {
    for (const json& task : active->at("tasks")) {
      const std::int64_t id = whole(task, "a task", INT32_MIN);
      if (id > INT32_MAX) fail<UsageError>("a task is {}", id);
      e.active.tasks.push_back(static_cast<std::int32_t>(id));
    }
    e.active.from_step = whole(active->at("from_step"), "from_step");
    e.active.until_step = whole(active->at("until_step"), "until_step");
  }
  return e;
}

std::string_view rule_name(BufferRule rule) {
  return kRules[static_cast<std::size_t>(rule)];
}

BufferRule parse_rule(std::string_view name) {
  for (std::size_t i = 0; i < kRules.size(); ++i) {
    if (kRules[i] == name) return static_cast<BufferRule>(i);
  }
  fail<UsageError>("a buffer's rule is '{}', must be one of {}", name,
                   fmt::join(kRules, ", "));
}

}  // namespace thinwire
