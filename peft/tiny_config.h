// What the tests over the registry know of a method, from its golden folders:
// one of them may hold contract.json, with a config for tiny models, what step
// 0 is to the bare backbone, and published counts. So a new method's golden
// test says it all.
#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "peft/method.h"

namespace thinwire::testing {

inline std::filesystem::path golden_root() {
  return std::filesystem::path(THINWIRE_SOURCE_DIR) / "tests/golden";
}

inline Config read_json(const std::filesystem::path& path) {
  return Config::parse(std::ifstream(path));
}

// Folders of tests/golden/ that check a method, by name.
inline std::vector<std::string> method_goldens() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(golden_root())) {
    if (std::filesystem::exists(entry.path() / "adapter.json")) {
      out.push_back(entry.path().filename());
    }
  }
  std::ranges::sort(out);
  return out;
}

// Step 0 and the bare backbone, as the paper has it.
enum class Start { kEqual, kNear, kAnother };

struct Contract {
  // For a model of a few thousand numbers whose widths are multiples of 4, with
  // biases or without.
  Config config = Config::object();
  Start start = Start::kEqual;
  struct Count {
    std::string shape;  // a public model, as t5-base
    Config config;
    std::int64_t trainable;
  };
  std::vector<Count> counts;               // as published
  std::vector<std::string> architectures;  // that it takes; empty: all
};

inline Start parse_start(const std::string& text) {
  if (text == "equal") return Start::kEqual;
  if (text == "near") return Start::kNear;
  THINWIRE_ASSERT(text == "another", "start '{}'", text);
  return Start::kAnother;
}

// Methods without a contract.json: their defaults, and equal.
inline const Contract& contract_of(std::string_view method) {
  static const auto* const kContracts = [] {
    auto* all = new std::map<std::string, Contract, std::less<>>;
    for (const MethodInfo& info : methods()) (*all)[std::string(info.id)];
    for (const std::string& name : method_goldens()) {
      const auto path = golden_root() / name / "contract.json";
      if (!std::filesystem::exists(path)) continue;
      const Config about = read_json(golden_root() / name / "adapter.json");
      const Config said = read_json(path);
      Contract& contract = (*all)[about.at("method").get<std::string>()];
      contract.config = said.at("config");
      contract.start = parse_start(said.at("start"));
      for (const Config& a : said.value("architectures", Config::array())) {
        contract.architectures.push_back(a);
      }
      for (const Config& c : said.at("counts")) {
        contract.counts.push_back({c.at("shape"), c.at("config"),
                                   c.at("trainable").get<std::int64_t>()});
      }
    }
    return all;
  }();
  return kContracts->find(method)->second;
}

// model: begins as its architecture does, as bert_classify.
inline bool runs_on(std::string_view method, std::string_view model) {
  const auto& only = contract_of(method).architectures;
  return only.empty() || std::ranges::any_of(only, [&](const std::string& a) {
           return model.starts_with(a);
         });
}

inline Config tiny_config(std::string_view method) {
  return contract_of(method).config;
}

}  // namespace thinwire::testing
