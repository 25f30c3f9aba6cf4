#include "peft/delta_file.h"

#include <ATen/ops/zeros.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "models/safetensors.h"
#include "peft/delta_json.h"

namespace thinwire {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr const char* kKey = "thinwire_delta";

bool is_wide(const DeltaEntry& e) {
  std::int64_t numel = 1;
  for (const std::int64_t d : e.shape) numel *= d;
  return numel > std::numeric_limits<std::int32_t>::max();
}

// Sorted positions within the tensor, as the delta holds them: the unsigned
// numbers of the file are the same bits.
at::Tensor checked_index(const DeltaEntry& e, const at::Tensor& stored) {
  const bool wide = is_wide(e);
  const at::ScalarType dtype = wide ? at::kUInt64 : at::kUInt32;
  if (stored.scalar_type() != dtype || stored.dim() != 1) {
    fail<UsageError>("its index is {} with {} dimensions, must be {} with 1",
                     c10::toString(stored.scalar_type()), stored.dim(),
                     c10::toString(dtype));
  }
  if (stored.numel() != e.count) {
    fail<UsageError>("its index has {} positions, count is {}", stored.numel(),
                     e.count);
  }
  std::uint64_t numel = 1;
  for (const std::int64_t d : e.shape) numel *= static_cast<std::uint64_t>(d);
  const auto check = [&](const auto* p) {
    for (std::int64_t i = 0; i < e.count; ++i) {
      const auto at = static_cast<std::uint64_t>(p[i]);
      if (at >= numel) {
        fail<UsageError>("index position {} is {}, the tensor has {} numbers",
                         i, at, numel);
      }
      if (i > 0 && p[i] <= p[i - 1]) {
        fail<UsageError>("index is not ascending at position {}", i);
      }
    }
  };
  if (wide) {
    check(static_cast<const std::uint64_t*>(stored.const_data_ptr()));
  } else {
    check(static_cast<const std::uint32_t*>(stored.const_data_ptr()));
  }
  return stored.view(wide ? at::kLong : at::kInt).clone();
}

void check_values(const at::Tensor& values) {
  if (values.scalar_type() != at::kFloat || values.dim() != 1) {
    fail<UsageError>("`values` is {} with {} dimensions, must be F32 with 1",
                     c10::toString(values.scalar_type()), values.dim());
  }
  const auto* p = static_cast<const float*>(values.const_data_ptr());
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    if (!std::isfinite(p[i])) fail<UsageError>("value {} is {}", i, p[i]);
  }
}

void check_gaps(const Delta& delta, const at::Tensor& values) {
  const auto* p = static_cast<const float*>(values.const_data_ptr());
  for (const DeltaEntry& e : delta.entries()) {
    for (std::int64_t i = e.offset + e.count; i % 4 != 0; ++i) {
      if (p[i] != 0) fail<UsageError>("number {} lies in a gap, not 0", i);
    }
  }
}

DeltaFile parse(const SafetensorsFile& file) {
  const auto text = file.metadata().find(kKey);
  if (text == file.metadata().end()) {
    fail<UsageError>("no metadata key '{}': this is not a delta", kKey);
  }
  const json j = json::parse(text->second);
  if (j.at("version") != kVersion) {
    fail<UsageError>("format version {}, this build reads {}",
                     j.at("version").dump(), kVersion);
  }
  const at::Tensor values = file.tensor("values");
  check_values(values);

  DeltaBuilder builder;
  for (const json& config : j.at("methods")) {
    builder.method_config(config.get<std::string>());
  }
  int groups = 0;
  for (const json& g : j.at("groups")) {
    if (builder.group(group_from_json(g)) != groups++) {
      fail<UsageError>("group {} is there twice", groups - 1);
    }
  }
  std::vector<std::int64_t> offsets;
  std::int64_t end = 0;
  std::size_t used = 1;
  for (const json& item : j.at("entries")) {
    DeltaEntry e = entry_from_json(item);
    try {
      const std::int64_t aligned = (end + 3) / 4 * 4;
      if (e.offset != aligned || e.count > values.numel() - e.offset) {
        fail<UsageError>(
            "it claims numbers [{}, {} + {}) of {}, must begin "
            "at {}",
            e.offset, e.offset, e.count, values.numel(), aligned);
      }
      if (e.group >= groups)
        fail<UsageError>("group {} of {}", e.group, groups);
      at::Tensor initial = values.slice(0, e.offset, e.offset + e.count);
      if (e.kind == EntryKind::kMasked) {
        e.index = checked_index(e, file.tensor("index." + e.name));
        ++used;
      } else {
        initial = initial.view(e.shape);
      }
      end = e.offset + e.count;
      builder.add(e, initial);
    } catch (const UsageError& error) {
      fail<UsageError>("entry '{}': {}", e.name, error.what());
    }
  }
  if ((end + 3) / 4 * 4 != values.numel()) {
    fail<UsageError>("`values` has {} numbers, the entries {}", values.numel(),
                     (end + 3) / 4 * 4);
  }
  for (const std::string& name : file.names()) {
    const std::string_view rest = name;
    if (rest.starts_with("constant.")) {
      builder.constant(name.substr(9), file.tensor(name).clone());
      ++used;
    }
  }
  for (const auto& [name, rule] : j.at("buffers").items()) {
    builder.buffer(name, file.tensor("buffer." + name).clone(),
                   parse_rule(rule.get<std::string>()));
    ++used;
  }
  if (used != file.names().size()) {
    fail<UsageError>("{} tensors, its layout speaks of {}", file.names().size(),
                     used);
  }
  DeltaFile out{builder.build(),
                Digest::from_hex(j.at("backbone").get<std::string>())};
  check_gaps(out.delta, values);
  const std::string hash = j.at("hash").get<std::string>();
  if (out.delta.hash().hex() != hash) {
    fail<UsageError>("the stored layout hash is {}, the content gives {}", hash,
                     out.delta.hash().hex());
  }
  return out;
}

}  // namespace

void save_delta(const std::string& path, const Delta& delta,
                const Digest& backbone) {
  NamedTensors tensors;
  tensors.emplace_back(
      "values", delta.size() > 0 ? delta.values() : at::zeros({0}, at::kFloat));
  for (const DeltaEntry& e : delta.entries()) {
    if (e.kind != EntryKind::kMasked) continue;
    const bool wide = e.index.scalar_type() == at::kLong;
    tensors.emplace_back("index." + e.name,
                         e.index.view(wide ? at::kUInt64 : at::kUInt32));
  }
  for (const auto& [name, tensor] : delta.constants()) {
    tensors.emplace_back("constant." + name, tensor);
  }
  for (const auto& [name, buffer] : delta.buffers()) {
    tensors.emplace_back("buffer." + name, buffer.tensor);
  }
  ordered_json j = {{"version", kVersion},
                    {"backbone", backbone.hex()},
                    {"hash", delta.hash().hex()}};
  j.update(layout_to_json(delta));
  write_safetensors(path, tensors, {{kKey, j.dump()}});
}

DeltaFile load_delta(const std::string& path) {
  const SafetensorsFile file(path);
  try {
    return parse(file);
  } catch (const json::exception& error) {
    fail<UsageError>("{}: the delta's metadata is malformed: {}", path,
                     error.what());
  } catch (const UsageError& error) {
    const std::string what = error.what();
    if (what.find(path) != std::string::npos) throw;
    fail<UsageError>("{}: {}", path, what);
  }
}

}  // namespace thinwire
