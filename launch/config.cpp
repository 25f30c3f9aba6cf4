#include "launch/config.h"

#include <utility>

#include "base/error.h"
#include "base/nearest.h"
#include "dist/options.h"
#include "launch/config_fields.h"
#include "launch/config_tasks.h"
#include "launch/config_tree.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<std::string> kTopKeys{
    "about", "device", "model", "task", "data", "mixing", "peft",
    "train", "search", "cache", "comm", "ops",  "output"};

void refuse_unknown_sections(const ConfigNode& root) {
  for (std::size_t i = 0; i < root.keys.size(); ++i) {
    if (std::ranges::find(kTopKeys, root.keys[i]) != kTopKeys.end()) continue;
    fail<UsageError>("{}: {} is unknown; did you mean {}?",
                     root.children[i].where, root.keys[i],
                     nearest(root.keys[i], kTopKeys));
  }
}

const TaskInfo& task_info(const ConfigNode* node, const std::string& kind) {
  try {
    return find_task(kind);
  } catch (const UsageError& error) {
    fail<UsageError>("{}: {}", node->find("kind")->where, error.what());
  }
}

Json read_task(const ConfigNode* node, RunConfig& config) {
  config.task_kind = selector(node, "task", "kind", config.path);
  const TaskInfo& info = task_info(node, config.task_kind);
  config.task = read_fields(node, "task", info.fields, {"kind"});
  Json out = {{"kind", config.task_kind}};
  out.update(config.task);
  return out;
}

Json read_peft(const ConfigNode* node, RunConfig& config) {
  if (node == nullptr || node->kind != ConfigNode::Kind::kList ||
      node->children.empty()) {
    fail<UsageError>(
        "{}: peft must be a list of methods, as in `peft: "
        "[{{method: lora, r: 8}}]`",
        node == nullptr ? config.path : node->where);
  }
  Json out = Json::array();
  for (std::size_t i = 0; i < node->children.size(); ++i) {
    const ConfigNode* item = &node->children[i];
    const std::string section = fmt::format("peft.{}", i);
    out.push_back(read_method(item, section, config.path));
    const std::string id = out.back().at("method");
    Json fields = out.back();
    fields.erase("method");
    config.peft.push_back({id, std::move(fields)});
    try {
      // Its own checks, with the place.
      find_method(id).make(config.peft.back().config);
    } catch (const UsageError& error) {
      fail<UsageError>("{}: {}", item->where, error.what());
    }
  }
  return out;
}

// A method that has numbers of each task's own knows how many there are; so
// does one inside another.
void check_task_count(const std::string& where, const std::string& id,
                      const Json& fields, std::int64_t count) {
  for (const auto& [key, value] : fields.items()) {
    if (value.is_object()) {
      check_task_count(where, value.at("method"), value, count);
    }
    if (key != "tasks" || value == count) continue;
    fail<UsageError>("{}: {}: tasks is {}, data.train has {} of them", where,
                     id, value.dump(), count);
  }
}

void check_task_counts(const ConfigNode& root, const RunConfig& config) {
  if (config.tasks.empty()) return;
  for (std::size_t i = 0; i < config.peft.size(); ++i) {
    check_task_count(root.find("peft")->children[i].where, config.peft[i].id,
                     config.peft[i].config,
                     static_cast<std::int64_t>(config.tasks.size()));
  }
}

std::string text_or_empty(const Json& value) {
  return value.is_null() ? "" : value.get<std::string>();
}

std::int64_t int_or(const Json& value, std::int64_t otherwise) {
  return value.is_null() ? otherwise : value.get<std::int64_t>();
}

double float_or(const Json& value, double otherwise) {
  return value.is_null() ? otherwise : value.get<double>();
}

std::optional<double> optional_float(const Json& value) {
  if (value.is_null()) return std::nullopt;
  return value.get<double>();
}

void fill_model(const Json& json, const ConfigNode* node, RunConfig& config) {
  config.model.path = text_or_empty(json.at("path"));
  config.model.config = text_or_empty(json.at("config"));
  config.model.seed = json.at("seed").get<std::uint64_t>();
  config.model.dtype = json.at("dtype").get<std::string>();
  config.model.cache = text_or_empty(json.at("cache"));
  if (config.model.path.empty() == config.model.config.empty()) {
    fail<UsageError>(
        "{}: model needs either path (a Hugging Face folder) or "
        "config (a config.json, for random weights)",
        node == nullptr ? config.path : node->where);
  }
}

void fill_data(const Json& json, RunConfig& config) {
  config.train_data = text_or_empty(json.at("train"));
  config.eval_data = text_or_empty(json.at("eval"));
  config.max_tokens = int_or(json.at("max_tokens"), 0);
  config.train.batch_size = json.at("batch_size");
  config.train.data_seed = json.at("seed").get<std::uint64_t>();
  config.train.bucket_window = json.at("bucket_window");
  config.train.queue_batches = json.at("queue_batches");
}

void fill_train(const Json& json, const ConfigNode* node, RunConfig& config) {
  TrainOptions& t = config.train;
  t.steps = json.at("steps");
  t.epochs = json.at("epochs");
  t.accumulation = json.at("accumulation");
  t.lr = json.at("lr");
  t.optimizer = json.at("optimizer");
  t.beta1 = optional_float(json.at("beta1"));
  t.beta2 = optional_float(json.at("beta2"));
  t.epsilon = json.at("epsilon");
  t.momentum = json.at("momentum");
  t.nesterov = json.at("nesterov");
  t.clip_threshold = json.at("clip_threshold");
  t.decay_rate = json.at("decay_rate");
  t.epsilon1 = json.at("epsilon1");
  t.epsilon2 = json.at("epsilon2");
  t.scale_parameter = json.at("scale_parameter");
  t.relative_step = json.at("relative_step");
  t.warmup_init = json.at("warmup_init");
  t.weight_decay = json.at("weight_decay");
  t.clip = json.at("clip");
  t.schedule = json.at("schedule");
  t.warmup = json.at("warmup");
  t.dropout = float_or(json.at("dropout"), -1);
  t.seed = json.at("seed").get<std::uint64_t>();
  t.state_policy =
      parse_state_policy(json.at("state_policy").get<std::string>());
  t.max_skips = json.at("max_skips");
  t.eval_every = json.at("eval_every");
  t.eval_samples = json.at("eval_samples");
  t.eval_at_start = json.at("eval_at_start");
  t.eval_batch_size = json.at("eval_batch_size");
  t.metric = text_or_empty(json.at("metric"));
  t.patience = json.at("patience");
  t.checkpoint_every = json.at("checkpoint_every");
  t.keep = json.at("keep");
  t.deterministic = json.at("deterministic");
  t.virtual_shards = json.at("virtual_shards");
  t.checkpoint_blocks = json.at("checkpoint_activations");
  t.log_every = json.at("log_every");
  config.threads = int_or(json.at("threads"), 0);
  if (t.steps > 0 && t.epochs > 0) {
    fail<UsageError>(
        "{}: train.steps and train.epochs are both set; which "
        "one ends the run?",
        node == nullptr ? config.path : node->where);
  }
}

void fill_comm(const Json& json, const ConfigNode* node, RunConfig& config) {
  config.backend = json.at("backend");
  config.timeout_seconds = json.at("timeout");
  config.silence_seconds = json.at("silence");
  ExchangeOptions& e = config.train.exchange;
  e.codec = parse_codec(json.at("codec").get<std::string>());
  e.algorithm = parse_algorithm(json.at("algorithm").get<std::string>());
  e.bucket_bytes = json.at("bucket_bytes");
  e.overlap = json.at("overlap");
  e.trace = json.at("trace");
  e.measure = true;
  e.error_feedback = json.at("error_feedback");
  e.sync_every = json.at("sync_every");
  e.outer_lr = json.at("outer_lr");
  e.outer_momentum = json.at("outer_momentum");
  e.density = json.at("density");
  using What = ExchangeOptions::What;
  const std::string what = json.at("exchange");
  e.what = what == "dense"   ? What::kDense
           : what == "top_k" ? What::kTopK
                             : What::kDelta;
  using Workers = ExchangeOptions::Workers;
  e.workers = json.at("workers") == "disjoint" ? Workers::kDisjoint
                                               : Workers::kIdentical;
  try {
    check_exchange(e);
  } catch (const UsageError& error) {
    fail<UsageError>("{}: {}", node == nullptr ? config.path : node->where,
                     error.what());
  }
}

void fill_search(const Json& json, RunConfig& config) {
  config.search_data = text_or_empty(json.at("data"));
  config.search = {.budget = json.at("budget"),
                   .lr = json.at("lr"),
                   .clip = json.at("clip"),
                   .temperature = json.at("temperature"),
                   .second_order = json.at("second_order"),
                   .batch_size = int_or(json.at("batch_size"), 0)};
}

std::string read_text(const ConfigNode& root, std::string_view key) {
  const ConfigNode* node = root.find(key);
  if (node == nullptr || node->kind == ConfigNode::Kind::kNull) return "";
  if (node->kind != ConfigNode::Kind::kScalar) {
    fail<UsageError>("{}: {} must be one word or text", node->where, key);
  }
  return node->text;
}

std::string read_device(const ConfigNode& root) {
  const std::string device = read_text(root, "device");
  if (device.empty()) return "cpu";
  if (device == "cpu" || device == "cuda") return device;
  fail<UsageError>("{}: device must be cpu or cuda, got {}",
                   root.find("device")->where, device);
}

bool plain(const std::string& text) {
  if (text.empty() || text == "true" || text == "false" || text == "null") {
    return false;
  }
  const auto word = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' ||
           c == '/' || c == '-' || c == '.';
  };
  return std::isalpha(static_cast<unsigned char>(text.front())) != 0 &&
         std::ranges::all_of(text, word);
}

std::string scalar_yaml(const Json& value) {
  if (value.is_null()) return "~";
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    return plain(text) ? text : value.dump();  // JSON strings are YAML
  }
  if (value.is_number_float()) return fmt::format("{}", value.get<double>());
  return value.dump();
}

std::string inline_yaml(const Json& list) {
  std::string out = "[";
  for (std::size_t i = 0; i < list.size(); ++i) {
    out += (i > 0 ? ", " : "") + scalar_yaml(list[i]);
  }
  return out + "]";
}

// An item a line: maps, and what no line holds.
bool is_block(const Json& value) {
  constexpr std::size_t kLine = 100;
  return value.is_object() ||
         (value.is_array() && !value.empty() &&
          (value.front().is_object() || inline_yaml(value).size() > kLine));
}

void append_yaml(std::string& out, const Json& value, int indent) {
  const std::string pad(static_cast<std::size_t>(indent), ' ');
  if (value.is_object()) {
    for (const auto& [key, child] : value.items()) {
      out += pad + key + ":";
      if (is_block(child)) {
        out += "\n";
        append_yaml(out, child, indent + 2);
      } else {
        out += " ";
        append_yaml(out, child, indent);
        out += "\n";
      }
    }
  } else if (value.is_array() && !value.empty() && value.front().is_object()) {
    for (const Json& child : value) {
      std::string item;
      append_yaml(item, child, indent + 2);
      item[static_cast<std::size_t>(indent)] = '-';
      out += item;
    }
  } else if (is_block(value)) {
    for (const Json& item : value) out += pad + "- " + scalar_yaml(item) + "\n";
  } else if (value.is_array()) {
    out += inline_yaml(value);
  } else {
    out += scalar_yaml(value);
  }
}

}  // namespace

RunConfig load_run_config(const std::string& path,
                          const std::vector<std::string>& overrides) {
  ConfigNode root = load_config_tree(path);
  for (const std::string& text : overrides) apply_override(root, text);
  refuse_unknown_sections(root);

  RunConfig config;
  config.path = path;
  config.about = read_text(root, "about");
  Json all = Json::object();
  if (!config.about.empty()) all["about"] = config.about;
  config.device = read_device(root);
  all["device"] = config.device;
  const auto section = [&](std::string_view name) {
    const ConfigNode* node = root.find(name);
    return std::pair(node, read_section(node, config_section(name)));
  };
  const auto [model_node, model] = section("model");
  fill_model(model, model_node, config);
  all["model"] = model;
  all["task"] = read_task(root.find("task"), config);
  Json tasks = take_tasks(root, config);
  all["data"] = section("data").second;
  fill_data(all["data"], config);
  if (!tasks.is_null()) {
    all["data"]["train"] = tasks["train"];
    all["mixing"] = tasks["mixing"];
  }
  all["peft"] = read_peft(root.find("peft"), config);
  check_task_counts(root, config);
  const auto [train_node, train] = section("train");
  fill_train(train, train_node, config);
  all["train"] = train;
  all["cache"] = section("cache").second;
  config.train.cache = text_or_empty(all["cache"].at("path"));
  if (root.find("search") != nullptr) {
    all["search"] = section("search").second;
    fill_search(all["search"], config);
  }
  const auto [comm_node, comm] = section("comm");
  fill_comm(comm, comm_node, config);
  all["comm"] = comm;
  const auto [ops_node, ops] = section("ops");
  config.reference_ops = ops.at("reference");
  all["ops"] = ops;
  config.output = read_text(root, "output");
  all["output"] = config.output.empty() ? Json() : Json(config.output);
  make_task(config);
  config.text = to_yaml(all);
  config.all = all;
  if (config.search && !config.search_data.empty()) {
    all["search"]["data"] = "of this host";
  }
  for (const char* key : {"path", "config", "cache"}) {
    Json& value = all["model"][key];
    if (!value.is_null()) value = "of this host";
  }
  if (!config.train.cache.empty()) all["cache"]["path"] = "of this host";
  for (const char* key : {"train", "eval"}) {
    Json& value = all["data"][key];
    if (value.is_object()) {
      hide_task_paths(value);
    } else if (!value.is_null()) {
      value = "of this host";
    }
  }
  config.agreed_text = to_yaml(all);
  return config;
}

std::vector<std::unique_ptr<Method>> make_methods(const RunConfig& config) {
  std::vector<std::unique_ptr<Method>> out;
  for (const MethodChoice& choice : config.peft) {
    out.push_back(make_method(choice.id, choice.config));
  }
  return out;
}

std::unique_ptr<Task> make_task(const RunConfig& config) {
  return find_task(config.task_kind).make(config.task);
}

std::string to_yaml(const nlohmann::ordered_json& value) {
  std::string out;
  append_yaml(out, value, 0);
  if (out.empty() || out.back() != '\n') out += "\n";
  return out;
}

}  // namespace thinwire
