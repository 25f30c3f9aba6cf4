// Lists of unequal length in one dataset, and where each begins in another.
// Internal to data/.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/chunked.h"

namespace thinwire {

// Ranges of a ragged dataset, each checked against the file before use.
class RaggedCursor {
 public:
  RaggedCursor(const std::string& path, int fd, const DatasetLayout& values,
               const DatasetLayout& offsets)
      : path_(path),
        name_(offsets.name),
        total_(values.count),
        values_(path, fd, values),
        offsets_(path, fd, offsets) {}

  struct Range {
    std::int64_t first, count;
  };
  Range range(std::int64_t sample) {
    std::int64_t ends[2];
    offsets_.read(sample, 2, ends);
    if (ends[0] < 0 || ends[1] < ends[0] || ends[1] > total_) {
      fail<IoError>("{}: /{}: entry {} is damaged: [{}, {}) of {}", path_,
                    name_, sample, ends[0], ends[1], total_);
    }
    return {ends[0], ends[1] - ends[0]};
  }
  template <class T>
  std::vector<T> values(Range r) {
    return values_.read<T>(r.first, r.count);
  }

 private:
  const std::string& path_;
  const std::string& name_;
  std::int64_t total_;
  ChunkCursor values_, offsets_;
};

}  // namespace thinwire
