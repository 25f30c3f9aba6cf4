#include "launch/config_tree.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::uintmax_t kMaxFileBytes = 1 << 20;
constexpr int kMaxNodes = 100'000;  // aliases of aliases grow without bound
constexpr int kMaxDepth = 64;
constexpr int kMaxExtends = 8;

std::string substitute(std::string text, const std::string& where) {
  static constexpr std::string_view kOpen = "${env:";
  for (std::size_t at = text.find(kOpen); at != std::string::npos;
       at = text.find(kOpen, at)) {
    const std::size_t end = text.find('}', at);
    if (end == std::string::npos) {
      fail<UsageError>("{}: '{}' has no closing brace; write ${{env:NAME}}",
                       where, text);
    }
    const std::string name =
        text.substr(at + kOpen.size(), end - at - kOpen.size());
    const char* value = std::getenv(name.c_str());
    if (value == nullptr) {
      fail<UsageError>("{}: the environment variable {} is not set", where,
                       name);
    }
    text.replace(at, end + 1 - at, value);
    at += std::strlen(value);
  }
  return text;
}

class Converter {
 public:
  // line_numbers: nodes of the command line all stand at line 1.
  Converter(std::string source, bool line_numbers)
      : source_(std::move(source)), line_numbers_(line_numbers) {}

  ConfigNode convert(const YAML::Node& node, int depth = 0) {
    ConfigNode out;
    out.where = where(node);
    if (++nodes_ > kMaxNodes || depth > kMaxDepth) {
      fail<UsageError>("{}: too many values or levels for a config", out.where);
    }
    if (node.IsScalar()) {
      out.kind = ConfigNode::Kind::kScalar;
      out.quoted = node.Tag() == "!";
      out.text = substitute(node.Scalar(), out.where);
      if (!out.quoted && (out.text == "~" || out.text == "null")) {
        out.kind = ConfigNode::Kind::kNull;
      }
    } else if (node.IsSequence()) {
      out.kind = ConfigNode::Kind::kList;
      for (const YAML::Node& child : node) {
        out.children.push_back(convert(child, depth + 1));
      }
    } else if (node.IsMap()) {
      out.kind = ConfigNode::Kind::kMap;
      for (const auto& pair : node) add(out, pair.first, pair.second, depth);
    }
    return out;
  }

 private:
  void add(ConfigNode& out, const YAML::Node& key, const YAML::Node& value,
           int depth) {
    if (!key.IsScalar()) {
      fail<UsageError>("{}: a key must be a plain word", where(key));
    }
    if (key.Scalar() == "<<") {
      fail<UsageError>(
          "{}: merge keys (<<) are not read; use `extends: "
          "FILE.yaml` at the top",
          where(key));
    }
    if (const ConfigNode* first = out.find(key.Scalar())) {
      fail<UsageError>("{}: the key '{}' stands twice (first at {})",
                       where(key), key.Scalar(), first->where);
    }
    out.keys.push_back(key.Scalar());
    out.children.push_back(convert(value, depth + 1));
    out.children.back().where = where(key);
  }

  std::string where(const YAML::Node& node) const {
    const YAML::Mark mark = node.Mark();
    if (!line_numbers_ || mark.is_null()) return source_;
    return fmt::format("{}:{}", source_, mark.line + 1);
  }

  const std::string source_;
  const bool line_numbers_;
  int nodes_ = 0;
};

ConfigNode parse(const std::string& text, const std::string& source,
                 bool line_numbers) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty()) return {};
    if (documents.size() > 1) {
      fail<UsageError>("{}: {} YAML documents; a config is one", source,
                       documents.size());
    }
    return Converter(source, line_numbers).convert(documents.front());
  } catch (const YAML::Exception& error) {
    fail<UsageError>("{}{}: not valid YAML: {}", source,
                     line_numbers && !error.mark.is_null()
                         ? fmt::format(":{}", error.mark.line + 1)
                         : "",
                     error.msg);
  }
}

std::string read_text(const std::string& path) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    fail<UsageError>("{}: is a folder; a config is a YAML file", path);
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    fail<IoError>("{}: cannot open the config: {}", path, std::strerror(errno));
  }
  std::string text(kMaxFileBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMaxFileBytes) {
    fail<UsageError>("{}: larger than 1 MiB, which no config is", path);
  }
  return text;
}

// Maps merge key by key; everything else of `over` replaces.
void merge(ConfigNode& base, ConfigNode over) {
  if (base.kind != ConfigNode::Kind::kMap ||
      over.kind != ConfigNode::Kind::kMap) {
    base = std::move(over);
    return;
  }
  for (std::size_t i = 0; i < over.keys.size(); ++i) {
    if (ConfigNode* mine = base.find(over.keys[i])) {
      merge(*mine, std::move(over.children[i]));
    } else {
      base.keys.push_back(over.keys[i]);
      base.children.push_back(std::move(over.children[i]));
    }
  }
}

ConfigNode load(const std::string& path, int depth) {
  ConfigNode node = parse(read_text(path), path, true);
  if (node.kind != ConfigNode::Kind::kMap) {
    fail<UsageError>(
        "{}: a config is a map of sections (model, task, data, "
        "…); see --help-config",
        path);
  }
  const ConfigNode* extends = node.find("extends");
  if (extends == nullptr) return node;
  if (extends->kind != ConfigNode::Kind::kScalar) {
    fail<UsageError>("{}: extends takes one file name", extends->where);
  }
  if (depth == kMaxExtends) {
    fail<UsageError>(
        "{}: extends goes deeper than {} files; does it go "
        "round in a circle?",
        extends->where, kMaxExtends);
  }
  const std::filesystem::path base =
      std::filesystem::path(path).parent_path() / extends->text;
  ConfigNode out = load(base.string(), depth + 1);
  const auto at = extends - node.children.data();
  node.keys.erase(node.keys.begin() + at);
  node.children.erase(node.children.begin() + at);
  merge(out, std::move(node));
  return out;
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  std::stringstream stream{std::string(path)};
  for (std::string part; std::getline(stream, part, '.');) {
    parts.push_back(part);
  }
  return parts;
}

ConfigNode& list_item(ConfigNode& list, const std::string& part,
                      std::string_view assignment) {
  std::size_t index = 0;
  const auto [end, error] =
      std::from_chars(part.data(), part.data() + part.size(), index);
  if (error != std::errc() || end != part.data() + part.size() ||
      index > list.children.size()) {
    fail<UsageError>("command line: {}: '{}' must be a list index from 0 to {}",
                     assignment, part, list.children.size());
  }
  if (index == list.children.size()) list.children.emplace_back();
  return list.children[index];
}

ConfigNode& map_item(ConfigNode& map, const std::string& part,
                     std::string_view assignment) {
  if (map.kind == ConfigNode::Kind::kScalar) {
    fail<UsageError>(
        "command line: {}: nothing lies below a plain value "
        "('{}' at {})",
        assignment, map.text, map.where);
  }
  map.kind = ConfigNode::Kind::kMap;
  if (ConfigNode* child = map.find(part)) return *child;
  map.keys.push_back(part);
  map.children.emplace_back();
  map.children.back().where = "command line";
  return map.children.back();
}

}  // namespace

const ConfigNode* ConfigNode::find(std::string_view key) const {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (keys[i] == key) return &children[i];
  }
  return nullptr;
}

ConfigNode* ConfigNode::find(std::string_view key) {
  return const_cast<ConfigNode*>(std::as_const(*this).find(key));
}

ConfigNode load_config_tree(const std::string& path) { return load(path, 0); }

ConfigNode parse_config_text(const std::string& text,
                             const std::string& where) {
  return parse(text, where, false);
}

void apply_override(ConfigNode& root, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  const std::vector<std::string> parts =
      split_path(assignment.substr(0, equals));
  if (equals == std::string_view::npos || parts.empty() ||
      std::ranges::any_of(parts, &std::string::empty)) {
    fail<UsageError>(
        "command line: '{}' is not key.path=value, as in "
        "train.lr=1e-3",
        assignment);
  }
  ConfigNode* node = &root;
  for (const std::string& part : parts) {
    node = node->kind == ConfigNode::Kind::kList
               ? &list_item(*node, part, assignment)
               : &map_item(*node, part, assignment);
  }
  *node =
      parse(std::string(assignment.substr(equals + 1)), "command line", false);
  node->where = "command line";
}

}  // namespace thinwire
