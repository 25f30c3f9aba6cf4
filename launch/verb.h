// What `thinwire VERB …` can do: a table of verbs, each in its own file of
// launch/verbs/ with its options as data (launch/cli.cpp parses them).
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace thinwire {

class Communicator;

struct VerbOption {
  // "--name" (a flag), "--name VALUE" (once), "--name VALUE…" (any number of
  // times), or "NAME" / "NAME…" (positional, one or any number; NAME? may be
  // left out).
  std::string_view spec;
  std::string_view help;
  bool required = false;
};

// Values by name without dashes: a flag that is given has one empty value.
class Arguments {
 public:
  bool has(const std::string& name) const { return values_.contains(name); }
  // The only or last value, else `otherwise`.
  std::string get(const std::string& name, std::string otherwise = "") const;
  std::vector<std::string> all(const std::string& name) const;
  void set(const std::string& name, std::vector<std::string> values) {
    values_[name] = std::move(values);
  }

 private:
  std::map<std::string, std::vector<std::string>> values_;
};

struct Verb {
  std::string_view name;
  std::string_view about;    // one line
  std::string_view details;  // more lines, with an example
  std::span<const VerbOption> options;
  int (*run)(const Arguments& arguments, Communicator& comm);
};

std::span<const Verb* const> verbs();

}  // namespace thinwire
