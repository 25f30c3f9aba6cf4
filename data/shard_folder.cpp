#include "data/shard_folder.h"

#include <algorithm>
#include <mutex>

#include "base/error.h"
#include "data/shard_file.h"
#include "data/shard_index.h"

namespace thinwire {
namespace {

class Folder final : public ShardFolder {
 public:
  explicit Folder(const std::string& path)
      : path_(path), folder_(read_folder_index(path)) {
    const std::lock_guard lock(hdf5_mutex());
    files_.reserve(folder_.shards.size());
    for (const ShardEntry& entry : folder_.shards) {
      files_.emplace_back(folder_, entry);
    }
    if (!folder_.vocabulary.empty()) {
      vocabulary_ = read_vocabulary(folder_.vocabulary);
    }
  }
  Folder(const Folder&) = delete;  // files_ point into folder_
  Folder& operator=(const Folder&) = delete;

  const ShardIndex& index() const override { return folder_.index; }
  const std::string& path() const override { return path_; }
  const std::vector<std::string>& vocabulary() const override {
    return vocabulary_;
  }

  std::vector<Sample> read(std::int64_t first,
                           std::int64_t count) const override {
    check_range(first, count);
    std::vector<std::int64_t> all(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i] = first + static_cast<std::int64_t>(i);
    }
    return gather(all);
  }

  std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const override {
    std::vector<Sample> out(ascending.size());
    std::vector<std::int64_t> local;
    std::size_t at = 0;
    while (at < ascending.size()) {
      check_range(ascending[at], 1);
      const std::size_t shard = shard_of(ascending[at]);
      const ShardEntry& entry = folder_.shards[shard];
      const std::size_t begin = at;
      local.clear();
      for (;
           at < ascending.size() && ascending[at] < entry.first + entry.samples;
           ++at) {
        THINWIRE_ASSERT(at == begin || ascending[at] > ascending[at - 1],
                        "positions must ascend, {} does not", ascending[at]);
        local.push_back(ascending[at] - entry.first);
      }
      files_[shard].gather(local, out.data() + begin);
    }
    return out;
  }

  References references(std::int64_t first, std::int64_t count) const override {
    check_range(first, count);
    References out(static_cast<std::size_t>(count));
    bool found = true;
    for_shards(first, count,
               [&](const ShardFile& file, std::int64_t from, std::int64_t n,
                   std::int64_t done) {
                 found = found && file.references(from, n, out.data() + done);
               });
    return found ? out : References();
  }

  std::vector<std::int32_t> lengths(std::int64_t first,
                                    std::int64_t count) const override {
    check_range(first, count);
    std::vector<std::int32_t> out(static_cast<std::size_t>(count));
    for_shards(
        first, count,
        [&](const ShardFile& file, std::int64_t from, std::int64_t n,
            std::int64_t done) { file.lengths(from, n, out.data() + done); });
    return out;
  }

  const std::vector<std::int32_t>& lengths() const override {
    std::call_once(lengths_once_,
                   [&] { lengths_ = lengths(0, folder_.index.samples); });
    return lengths_;
  }

  void verify() const override {
    for (const ShardFile& file : files_) file.verify();
  }

 private:
  void check_range(std::int64_t first, std::int64_t count) const {
    const std::int64_t n = folder_.index.samples;
    if (first < 0 || count < 0 || first > n || count > n - first) {
      fail<UsageError>("{}: samples [{}, {} + {}) are outside its {}", path_,
                       first, first, count, n);
    }
  }

  std::size_t shard_of(std::int64_t sample) const {
    const auto& shards = folder_.shards;
    const auto after = std::upper_bound(
        shards.begin(), shards.end(), sample,
        [](std::int64_t s, const ShardEntry& e) { return s < e.first; });
    return static_cast<std::size_t>(after - shards.begin()) - 1;
  }

  template <class Visit>  // (file, first in it, how many, how many before)
  void for_shards(std::int64_t first, std::int64_t count, Visit visit) const {
    for (std::int64_t done = 0; done < count;) {
      const std::size_t shard = shard_of(first + done);
      const ShardEntry& entry = folder_.shards[shard];
      const std::int64_t from = first + done - entry.first;
      const std::int64_t n = std::min(count - done, entry.samples - from);
      visit(files_[shard], from, n, done);
      done += n;
    }
  }

  std::string path_;
  FolderIndex folder_;
  std::vector<ShardFile> files_;
  std::vector<std::string> vocabulary_;
  mutable std::once_flag lengths_once_;
  mutable std::vector<std::int32_t> lengths_;
};

}  // namespace

Digest ShardFolder::digest() const {
  return hash_file(path() + "/index.json");
}

std::shared_ptr<const ShardFolder> open_shard_folder(const std::string& path) {
  return std::make_shared<Folder>(path);
}

}  // namespace thinwire
