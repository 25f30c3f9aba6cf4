#include "launch/config_tasks.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/nearest.h"
#include "launch/config_fields.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;
using Kind = ConfigNode::Kind;

constexpr Field kFields[] = {
    {"path", FieldType::kString, "!", "folder of shards to train on"},
    {"eval", FieldType::kString, "~", "folder of shards to evaluate on"},
    {"weight", FieldType::kFloat, "1", "factor of its probability"},
    {"metrics", FieldType::kStrings, "~",
     "whose mean is its score (~: the main one of the task kind)"},
};

void check_name(const std::string& name, const std::string& where) {
  const auto word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' ||
           c == '-';
  };
  if (!name.empty() && std::ranges::all_of(name, word)) return;
  fail<UsageError>("{}: '{}' cannot name a task; letters, digits, _ and - can",
                   where, name);
}

// A bare path is a task without more to say.
Json read_one(const std::string& name, const ConfigNode& node,
              std::span<const Field> fields) {
  const std::string section = "data.train." + name;
  if (node.kind == Kind::kScalar) {
    ConfigNode map;
    map.kind = Kind::kMap;
    map.where = node.where;
    map.keys = {"path"};
    map.children = {node};
    return read_fields(&map, section, fields);
  }
  return read_fields(&node, section, fields, {"name"});
}

std::string name_of(const ConfigNode& list, std::size_t i) {
  const ConfigNode& item = list.children[i];
  if (list.kind == Kind::kMap) return list.keys[i];
  const ConfigNode* name = item.find("name");
  if (item.kind == Kind::kMap && name != nullptr &&
      name->kind == Kind::kScalar) {
    return name->text;
  }
  fail<UsageError>(
      "{}: data.train.{} needs a name, as in `- {{name: cola, path: DIR}}`",
      item.where, i);
}

MixingOptions mixing_options(const Json& json) {
  using Rule = MixingOptions::Rule;
  const std::string rule = json.at("rule");
  MixingOptions out;
  out.rule = rule == "equal"         ? Rule::kEqual
             : rule == "temperature" ? Rule::kTemperature
                                     : Rule::kProportional;
  out.cap = json.at("cap");
  out.temperature = json.at("temperature");
  out.one_task = json.at("one_task");
  return out;
}

}  // namespace

std::span<const Field> task_data_fields() { return kFields; }

Json take_tasks(ConfigNode& root, RunConfig& config) {
  ConfigNode* data = root.find("data");
  ConfigNode* train = data == nullptr || data->kind != Kind::kMap
                          ? nullptr
                          : data->find("train");
  const ConfigNode* mixing = root.find("mixing");
  if (train == nullptr ||
      (train->kind != Kind::kMap && train->kind != Kind::kList)) {
    if (mixing != nullptr) {
      fail<UsageError>(
          "{}: mixing is for several tasks; give data.train as a map of them, "
          "as in `train: {{cola: DIR, rte: DIR}}`",
          mixing->where);
    }
    return nullptr;
  }
  const ConfigNode* eval = data->find("eval");
  if (eval != nullptr && eval->kind != Kind::kNull) {
    fail<UsageError>(
        "{}: with several tasks each has its own: data.train.NAME.eval",
        eval->where);
  }
  Json out = {{"train", Json::object()}};
  for (std::size_t i = 0; i < train->children.size(); ++i) {
    const ConfigNode& node = train->children[i];
    const std::string name = name_of(*train, i);
    check_name(name, node.where);
    if (out["train"].contains(name)) {
      fail<UsageError>("{}: two tasks are named {}", node.where, name);
    }
    const Json task = read_one(name, node, kFields);
    const double weight = task.at("weight");
    if (!(weight > 0)) {
      fail<UsageError>("{}: data.train.{}.weight is {}; it must be above 0",
                       node.where, name, weight);
    }
    const auto text = [&](const char* key) {
      return task.at(key).is_null() ? "" : task.at(key).get<std::string>();
    };
    config.tasks.push_back({name, text("path"), text("eval"), {}});
    if (!task.at("metrics").is_null()) {
      config.tasks.back().metrics = task.at("metrics");
    }
    config.train.mixing.weights.push_back(weight);
    out["train"][name] = task;
  }
  if (config.tasks.empty()) {
    fail<UsageError>("{}: data.train names no task", train->where);
  }
  out["mixing"] = read_section(mixing, config_section("mixing"));
  std::vector<double> weights = std::move(config.train.mixing.weights);
  config.train.mixing = mixing_options(out["mixing"]);
  config.train.mixing.weights = std::move(weights);
  *train = ConfigNode();
  return out;
}

void hide_task_paths(Json& train) {
  for (Json& task : train) {
    for (const char* key : {"path", "eval"}) {
      if (!task.at(key).is_null()) task[key] = "of this host";
    }
  }
}

TaskData& find_task_data(RunConfig& config, std::string_view name) {
  std::vector<std::string> names;
  for (TaskData& task : config.tasks) {
    if (task.name == name) return task;
    names.push_back(task.name);
  }
  if (names.empty()) {
    fail<UsageError>("--task {}: {} has one task; leave --task out", name,
                     config.path);
  }
  fail<UsageError>("--task {}: no such task; choose one of: {}", name,
                   list_nearest_first(name, names));
}

}  // namespace thinwire
