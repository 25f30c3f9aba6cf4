// Token ids back to text, by the decode table of a folder of shards
// (vocab.json, docs/data_format.md).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thinwire {

class TextDecoder {
 public:
  // `path`: a vocab.json. Throws IoError, UsageError.
  explicit TextDecoder(const std::string& path);

  // Special tokens are left out. An id outside the table, as a model whose
  // vocabulary is padded may produce, counts as special.
  std::string text(std::span<const std::int32_t> ids) const;
  std::int64_t vocab_size() const {
    return static_cast<std::int64_t>(tokens_.size());
  }

 private:
  enum class Rule { kWordpiece, kMetaspace, kByteLevel, kPlain };

  Rule rule_ = Rule::kPlain;
  std::vector<std::string> tokens_;  // already bytes under kByteLevel
  std::vector<bool> special_;
};

}  // namespace thinwire
