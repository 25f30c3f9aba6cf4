// A delta on disk: one safetensors file. `values` F32 [size]; `index.NAME` U32
// (or U64) per masked entry; `constant.NAME`, `buffer.NAME`; layout, groups,
// backbone identity, layout hash and method configs as JSON in the metadata key
// `thinwire_delta` (format version 1).
#pragma once

#include <string>

#include "base/hash.h"
#include "peft/delta.h"

namespace thinwire {

struct DeltaFile {
  Delta delta;
  Digest backbone;  // identity it was trained on
};

// Atomic, like write_safetensors. Throws IoError.
void save_delta(const std::string& path, const Delta& delta,
                const Digest& backbone);
// Checks everything: version, offsets, counts, index sorted and in range,
// finite values, the stored hash against the content. Throws IoError or
// UsageError naming the file, the entry and what would be right.
DeltaFile load_delta(const std::string& path);

}  // namespace thinwire
