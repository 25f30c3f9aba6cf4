// One kind of adapter folder, as another library writes it: which method does
// the same, and what is called how on disk. One file per kind, a line in
// formats.cpp. Internal to peft/interop.
#pragma once

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/backbone.h"
#include "peft/interop/disk_tensors.h"
#include "peft/method.h"

namespace thinwire {

using Json = nlohmann::json;

struct EqualMethod {
  std::string id;
  Config config;  // what differs from its defaults
};

// What a folder is made of besides the delta's numbers.
struct WriteContext {
  const Backbone& backbone;
  const Config& method;  // config of the delta's method, every field present
  const Delta& delta;
  std::string model_path;  // as it is to be written down
  std::string name;        // of the adapter, where the format has one
};

class AdapterFormat {
 public:
  virtual ~AdapterFormat() = default;
  virtual std::string_view library() const = 0;  // "peft", "adapterhub"
  virtual std::string_view kind() const = 0;     // "a LORA folder of HF peft"
  // Ids of the methods that it holds, any one at a time.
  virtual std::vector<std::string_view> methods() const = 0;
  bool holds(std::string_view method) const {
    const auto ids = methods();
    return std::ranges::find(ids, method) != ids.end();
  }

  // Reading. Whether this is the kind that adapter_config.json speaks of.
  virtual bool is(const Json& config) const = 0;
  // Throws UsageError without the path: what is not done here, what does not
  // fit this backbone.
  virtual EqualMethod method(const Json& config,
                             const Backbone& backbone) const = 0;

  // Writing. adapter_config.json; throws UsageError for what the method does
  // and the format cannot say.
  virtual Json config(const WriteContext& context) const = 0;
  // Further JSON files, by name.
  virtual std::map<std::string, Json> more(const WriteContext&) const {
    return {};
  }
  // The same numbers in the entries that tensors() knows; empty: as they are.
  virtual std::optional<Delta> prepare(const WriteContext&) const {
    return std::nullopt;
  }

  // Both: places of the entries of a delta that method() leads to.
  virtual std::vector<DiskTensor> tensors(const Delta& delta,
                                          const Backbone& backbone,
                                          const Json& config) const = 0;
};

std::span<const AdapterFormat* const> adapter_formats();

// Throws UsageError naming a key that is on (not null, false, 0, "" or empty)
// and none of `known`: what it does is not known here.
void refuse_unread(const Json& config, std::span<const std::string_view> known);

// Whether the model's blocks are in two stacks, of which the second reads the
// first.
bool is_encoder_decoder(const Backbone& backbone);

}  // namespace thinwire
