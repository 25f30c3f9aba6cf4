#include "launch/config_fields.h"

#include <cerrno>
#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "base/nearest.h"
#include "peft/method.h"
#include "tasks/task.h"

namespace thinwire {
namespace {

using enum FieldType;
constexpr bool kSpeed = true;
constexpr bool kResults = false;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kMaxCount = 9007199254740992.0;  // 2^53, exact in a double

constexpr SectionField kModel[] = {
    {{"path", kString, "~", "a Hugging Face folder: config.json + safetensors"},
     kResults},
    {{"config", kString, "~", "config.json of a model with random weights"},
     kResults},
    {{"init", kString, "random", "initial weights of model.config"},
     kResults,
     0,
     0,
     "random"},
    {{"seed", kInt, "1", "of random weights"}, kResults, 0, kMaxCount},
    {{"dtype", kString, "fp32", "of the backbone's matrices"},
     kResults,
     0,
     0,
     "fp32 | bf16"},
    {{"cache", kString, "~", "folder for prepared weights (~: the user's)"},
     kSpeed},
};

constexpr SectionField kData[] = {
    {{"train", kString, "~", "folder of shards to train on"}, kResults},
    {{"eval", kString, "~", "folder of shards to evaluate on"}, kResults},
    {{"batch_size", kInt, "32", "samples per rank and micro-batch"},
     kResults,
     1,
     1 << 20},
    {{"max_tokens", kInt, "~",
      "longest input allowed, tokens (~: the model's)"},
     kResults,
     1,
     1 << 20},
    {{"seed", kInt, "1", "of the order of samples"}, kResults, 0, kMaxCount},
    {{"bucket_window", kInt, "2048", "samples sorted by length together"},
     kResults,
     0,
     1 << 24},
    {{"queue_batches", kInt, "4", "batches read ahead"}, kSpeed, 1, 1024},
};

constexpr SectionField kTrain[] = {
    {{"steps", kInt, "0", "optimizer steps (0: epochs decides)"},
     kResults,
     0,
     kMaxCount},
    {{"epochs", kFloat, "0", "passes over the data (0: steps decides)"},
     kResults,
     0,
     1e6},
    {{"accumulation", kInt, "1", "micro-batches per step"},
     kResults,
     1,
     1 << 20},
    {{"lr", kFloat, "1e-3", "peak learning rate"}, kResults, 0, 1e6},
    {{"optimizer", kString, "adamw", "optimizer"},
     kResults,
     0,
     0,
     "adamw | sgd"},
    {{"beta1", kFloat, "0.9", "AdamW: decay of the mean"}, kResults, 0, 1},
    {{"beta2", kFloat, "0.999", "AdamW: decay of the square"}, kResults, 0, 1},
    {{"epsilon", kFloat, "1e-8", "AdamW: added to the root"}, kResults, 0, 1},
    {{"momentum", kFloat, "0", "SGD: momentum"}, kResults, 0, 1},
    {{"nesterov", kBool, "false", "SGD: Nesterov's momentum"}, kResults},
    {{"weight_decay", kFloat, "0", "decoupled weight decay, per unit of lr"},
     kResults,
     0,
     1e6},
    {{"clip", kFloat, "1.0", "largest gradient norm (0: no clipping)"},
     kResults,
     0,
     1e30},
    {{"schedule", kString, "linear", "learning rate after the warm-up"},
     kResults,
     0,
     0,
     "linear | cosine | constant"},
    {{"warmup", kInt, "0", "steps of linear warm-up"}, kResults, 0, kMaxCount},
    {{"dropout", kFloat, "~", "dropout probability (~: the model's own)"},
     kResults,
     0,
     0.999},
    {{"seed", kInt, "1", "of dropout and initial values"},
     kResults,
     0,
     kMaxCount},
    {{"deterministic", kBool, "false", "the same bits for 1, 2, 4 … ranks"},
     kResults},
    {{"virtual_shards", kInt, "8", "deterministic: parts of a global batch"},
     kResults,
     1,
     4096},
    {{"state_policy", kString, "drop",
      "optimizer state when the layout of the delta changes"},
     kResults,
     0,
     0,
     "carry | reset | drop"},
    {{"max_skips", kInt, "10",
      "steps in a row with a non-finite gradient that end the run"},
     kResults,
     1,
     kMaxCount},
    {{"eval_every", kInt, "0", "steps between evaluations (0: at the end)"},
     kResults,
     0,
     kMaxCount},
    {{"eval_samples", kInt, "0", "samples of each evaluation (0: all)"},
     kResults,
     0,
     kMaxCount},
    {{"eval_at_start", kBool, "false", "evaluate before the first step"},
     kResults},
    {{"metric", kString, "~", "what best/ and patience follow (~: the task's)"},
     kResults},
    {{"patience", kInt, "0", "evaluations without gain that end it (0: off)"},
     kResults,
     0,
     kMaxCount},
    {{"eval_batch_size", kInt, "0", "samples per rank (0: data.batch_size)"},
     kSpeed,
     0,
     1 << 20},
    {{"checkpoint_every", kInt, "0",
      "steps between checkpoints (0: at the end)"},
     kSpeed,
     0,
     kMaxCount},
    {{"keep", kInt, "2", "checkpoints kept beside best/"},
     kSpeed,
     1,
     kMaxCount},
    {{"log_every", kInt, "10", "steps between lines of metrics.jsonl"},
     kSpeed,
     1,
     kMaxCount},
    {{"threads", kInt, "~", "threads per rank (~: cores / ranks of the host)"},
     kSpeed,
     1,
     4096},
};

constexpr SectionField kComm[] = {
    {{"backend", kString, "auto", "auto is mpi under mpirun, else self"},
     kSpeed,
     0,
     0,
     "auto | self | mpi"},
    {{"codec", kString, "fp32", "of numbers on the wire"},
     kResults,
     0,
     0,
     "fp32 | bf16 | int8"},
    {{"error_feedback", kBool, "true",
      "what a codec rounds off is added at the next exchange"},
     kResults},
    {{"sync_every", kInt, "1",
      "steps between exchanges (1: gradients; more: steps of each rank's own)"},
     kResults,
     1,
     kMaxCount},
    {{"outer_lr", kFloat, "1", "sync_every > 1: of the merged difference"},
     kResults,
     0,
     1e6},
    {{"outer_momentum", kFloat, "0", "sync_every > 1: Nesterov's, at merges"},
     kResults,
     0,
     0.9999},
    {{"workers", kString, "identical",
      "what the ranks move: all the same numbers, or each a share"},
     kResults,
     0,
     0,
     "identical | disjoint"},
    {{"exchange", kString, "delta",
      "what is sent: the delta; the whole backbone, then masked; the largest"},
     kResults,
     0,
     0,
     "delta | dense | top_k"},
    {{"density", kFloat, "0.01", "exchange: top_k: share of the delta sent"},
     kResults,
     1e-6,
     1},
    {{"algorithm", kString, "auto", "of the all-reduce"},
     kSpeed,
     0,
     0,
     "auto | doubling | halving_doubling | ring | two_level | mpi"},
    {{"bucket_bytes", kInt, "0", "of fp32 sent together (0: from the link)"},
     kSpeed,
     0,
     kMaxCount},
    {{"overlap", kBool, "true", "buckets go while backward still runs"},
     kSpeed},
    {{"trace", kBool, "false",
      "times of each exchange in exchange-RANK.jsonl of the run folder"},
     kSpeed},
    {{"timeout", kFloat, "120",
      "seconds that a rank waits for one that still computes"},
     kSpeed,
     0.01,
     1e6},
    {{"silence", kFloat, "5",
      "seconds after which a rank that is stopped or cut off ends the run"},
     kSpeed,
     0.5,
     1e6},
};

constexpr Section kSections[] = {
    {"model", "the backbone that does not move", kModel},
    {"data", "shards made by data/prepare.py", kData},
    {"train", "the loop", kTrain},
    {"comm", "the exchange between ranks", kComm},
};

std::string_view type_name(FieldType type) {
  switch (type) {
    case kBool:
      return "true or false";
    case kInt:
      return "a whole number";
    case kFloat:
      return "a number";
    case kString:
      return "one word or text";
    case kStrings:
      return "a list of words";
    case kFloats:
      return "a list of numbers";
  }
  return "";
}

bool parse_number(const std::string& text, double* out) {
  if (text.empty()) return false;
  char* end = nullptr;
  errno = 0;
  *out = std::strtod(text.c_str(), &end);
  return *end == '\0' && std::isfinite(*out);
}

// False: not of this type.
bool read_scalar(const ConfigNode& node, FieldType type,
                 nlohmann::ordered_json* out) {
  if (node.kind != ConfigNode::Kind::kScalar) return false;
  if (type == kString) {
    *out = node.text;
    return true;
  }
  if (node.quoted) return false;
  if (type == kBool) {
    *out = node.text == "true";
    return node.text == "true" || node.text == "false";
  }
  double value = 0;
  if (!parse_number(node.text, &value)) return false;
  if (type == kFloat) {
    *out = value;
    return true;
  }
  *out = static_cast<std::int64_t>(std::abs(value) <= kMaxCount ? value : 0);
  return std::abs(value) <= kMaxCount && value == std::floor(value);
}

bool read_value(const ConfigNode& node, FieldType type,
                nlohmann::ordered_json* out) {
  if (type != kStrings && type != kFloats) return read_scalar(node, type, out);
  const FieldType item = type == kStrings ? kString : kFloat;
  *out = nlohmann::ordered_json::array();
  if (node.kind == ConfigNode::Kind::kScalar) {  // a list of one
    return read_scalar(node, item, &out->emplace_back());
  }
  if (node.kind != ConfigNode::Kind::kList) return false;
  for (const ConfigNode& child : node.children) {
    if (!read_scalar(child, item, &out->emplace_back())) return false;
  }
  return true;
}

nlohmann::ordered_json default_value(const Field& field,
                                     std::string_view section) {
  const ConfigNode node =
      parse_config_text(std::string(field.default_text), "default");
  nlohmann::ordered_json out;
  if (node.kind == ConfigNode::Kind::kNull) return out;
  THINWIRE_ASSERT(read_value(node, field.type, &out), "{}.{}: default '{}'",
                  section, field.name, field.default_text);
  return out;
}

void refuse_unknown(const ConfigNode& node, std::string_view section,
                    std::span<const Field> fields,
                    const std::vector<std::string>& known) {
  std::vector<std::string> names = known;
  for (const Field& field : fields) names.emplace_back(field.name);
  for (std::size_t i = 0; i < node.keys.size(); ++i) {
    const std::string& key = node.keys[i];
    if (std::ranges::find(names, key) != names.end()) continue;
    fail<UsageError>("{}: {}.{} is unknown; did you mean {}.{}?",
                     node.children[i].where, section, key, section,
                     nearest(key, names));
  }
}

void check_range(const ConfigNode* node, std::string_view section,
                 const SectionField& f, const nlohmann::ordered_json& value) {
  if (value.is_null()) return;
  const ConfigNode* at = node == nullptr ? nullptr : node->find(f.field.name);
  const std::string where = at == nullptr ? "default" : at->where;
  if (value.is_number()) {
    const double x = value.get<double>();
    if (x >= f.low && x <= f.high) return;
    const std::string allowed =
        f.low == f.high       ? fmt::format("{:g}", f.low)
        : f.high == kMaxCount ? fmt::format("at least {:g}", f.low)
        : f.high == kInfinity ? fmt::format("at least {:g}", f.low)
                              : fmt::format("from {:g} to {:g}", f.low, f.high);
    fail<UsageError>("{}: {}.{} is {}; it must be {}", where, section,
                     f.field.name, value.dump(), allowed);
  }
  if (!value.is_string() || f.choices.empty()) return;
  const std::string& text = value.get_ref<const std::string&>();
  std::string_view rest = f.choices;
  while (!rest.empty()) {
    const std::size_t bar = rest.find(" | ");
    if (rest.substr(0, bar) == text) return;
    rest = bar == std::string_view::npos ? "" : rest.substr(bar + 3);
  }
  fail<UsageError>("{}: {}.{} is '{}'; choose one of: {}", where, section,
                   f.field.name, text, f.choices);
}

void print_field(std::string& out, std::string_view indent, const Field& f,
                 std::string_view choices = "") {
  const std::string value =
      f.default_text == "!" ? "(required)" : std::string(f.default_text);
  out += fmt::format("{}{:<18} {:<12} {}{}\n", indent, f.name, value, f.help,
                     choices.empty() ? "" : fmt::format(": {}", choices));
}

}  // namespace

std::span<const Section> config_sections() { return kSections; }

const Section& config_section(std::string_view name) {
  for (const Section& section : kSections) {
    if (section.name == name) return section;
  }
  fail<InternalError>("no config section {}", name);
}

nlohmann::ordered_json read_fields(const ConfigNode* node,
                                   std::string_view section,
                                   std::span<const Field> fields,
                                   const std::vector<std::string>& known) {
  nlohmann::ordered_json out = nlohmann::ordered_json::object();
  if (node != nullptr && node->kind != ConfigNode::Kind::kNull) {
    if (node->kind != ConfigNode::Kind::kMap) {
      fail<UsageError>("{}: {} must be a map of keys; see --help-config",
                       node->where, section);
    }
    refuse_unknown(*node, section, fields, known);
  }
  for (const Field& field : fields) {
    const ConfigNode* value =
        node == nullptr ? nullptr : node->find(field.name);
    auto& slot = out[std::string(field.name)];
    if (value == nullptr || value->kind == ConfigNode::Kind::kNull) {
      if (field.default_text == "!") {
        fail<UsageError>("{}: {}.{} is missing: {}",
                         value != nullptr  ? value->where
                         : node != nullptr ? node->where
                                           : "config",
                         section, field.name, field.help);
      }
      slot = default_value(field, section);
    } else if (!read_value(*value, field.type, &slot)) {
      fail<UsageError>("{}: {}.{} is {}; it must be {}", value->where, section,
                       field.name,
                       value->kind == ConfigNode::Kind::kScalar
                           ? fmt::format("'{}'", value->text)
                       : value->kind == ConfigNode::Kind::kList ? "a list"
                                                                : "a map",
                       type_name(field.type));
    }
  }
  return out;
}

nlohmann::ordered_json read_section(const ConfigNode* node,
                                    const Section& section) {
  std::vector<Field> fields;
  for (const SectionField& f : section.fields) fields.push_back(f.field);
  auto out = read_fields(node, section.name, fields);
  for (const SectionField& f : section.fields) {
    check_range(node, section.name, f, out.at(std::string(f.field.name)));
  }
  return out;
}

std::string config_help() {
  std::string out =
      "A config is one YAML file; `key.path=value` after it overrides, as in\n"
      "train.lr=1e-3 or peft.0.r=4. ${env:NAME} is substituted; `extends:\n"
      "base.yaml` starts from another file. Key, default and meaning (~ is\n"
      "unset):\n\n"
      "about                              what the run is for\n"
      "output             (required)      run folder\n";
  for (const bool speed : {kResults, kSpeed}) {
    out += speed ? "\n--- keys that change speed alone ---\n"
                 : "\n--- keys that change results ---\n";
    for (const Section& section : kSections) {
      std::string body;
      for (const SectionField& f : section.fields) {
        if (f.speed == speed) print_field(body, "  ", f.field, f.choices);
      }
      if (!body.empty()) {
        out +=
            fmt::format("\n{}:  # {}\n{}", section.name, section.about, body);
      }
    }
    if (speed) continue;
    out += "\ntask:  # what is optimised; `kind` is one of\n";
    for (const TaskInfo& task : tasks()) {
      out += fmt::format("  kind: {:<18} {}\n", task.kind, task.about);
      for (const Field& field : task.fields) print_field(out, "    ", field);
    }
    out += "\npeft:  # a list; `method` is one of\n";
    for (const MethodInfo& method : methods()) {
      out += fmt::format("  - method: {:<14} {}\n", method.id, method.about);
      for (const Field& field : method.fields) print_field(out, "    ", field);
    }
  }
  return out;
}

}  // namespace thinwire
