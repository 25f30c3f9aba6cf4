#include "data/task_folders.h"

#include <algorithm>
#include <iterator>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "base/random.h"

namespace thinwire {
namespace {

class TaskFolder final : public ShardFolder {
 public:
  TaskFolder(std::shared_ptr<const ShardFolder> folder, std::int32_t task)
      : folder_(std::move(folder)), task_(task) {}

  const ShardIndex& index() const override { return folder_->index(); }
  const std::string& path() const override { return folder_->path(); }
  Digest digest() const override { return folder_->digest(); }
  std::vector<Sample> read(std::int64_t first,
                           std::int64_t count) const override {
    return numbered(folder_->read(first, count));
  }
  std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const override {
    return numbered(folder_->gather(ascending));
  }
  References references(std::int64_t first, std::int64_t count) const override {
    return folder_->references(first, count);
  }
  const std::vector<std::int32_t>& lengths() const override {
    return folder_->lengths();
  }
  std::vector<std::int32_t> lengths(std::int64_t first,
                                    std::int64_t count) const override {
    return folder_->lengths(first, count);
  }
  void verify() const override { folder_->verify(); }
  const std::vector<std::string>& vocabulary() const override {
    return folder_->vocabulary();
  }

 private:
  std::vector<Sample> numbered(std::vector<Sample> samples) const {
    for (Sample& s : samples) {
      s.task = task_;
      s.salt = task_ == 0 ? 0 : mix64(static_cast<std::uint64_t>(task_));
    }
    return samples;
  }

  std::shared_ptr<const ShardFolder> folder_;
  std::int32_t task_;
};

}  // namespace

std::shared_ptr<const ShardFolder> as_task(
    std::shared_ptr<const ShardFolder> folder, std::int32_t task) {
  return std::make_shared<TaskFolder>(std::move(folder), task);
}

namespace {

class JoinedFolders final : public ShardFolder {
 public:
  explicit JoinedFolders(
      const std::vector<std::shared_ptr<const ShardFolder>>& folders)
      : index_(folders.front()->index()) {
    index_.samples = 0;
    for (const auto& folder : folders) {
      const ShardIndex& own = folder->index();
      if (own.task_kind != index_.task_kind) {
        fail<UsageError>(
            "{}: was prepared for task {}, {} for {}; tasks of one run are of "
            "one kind",
            folder->path(), own.task_kind, folders.front()->path(),
            index_.task_kind);
      }
      if (own.tokenizer_sha256 != index_.tokenizer_sha256) {
        fail<UsageError>(
            "{}: was prepared with another tokenizer than {}; prepare both "
            "with the model's own",
            folder->path(), folders.front()->path());
      }
      index_.labels = std::max(index_.labels, own.labels);
      index_.vocab_size = std::max(index_.vocab_size, own.vocab_size);
      index_.max_input = std::max(index_.max_input, own.max_input);
      index_.max_target = std::max(index_.max_target, own.max_target);
      begin_.push_back(index_.samples);
      index_.samples += own.samples;
      path_ += (path_.empty() ? "" : ", ") + folder->path();
      parts_.push_back(
          as_task(folder, static_cast<std::int32_t>(parts_.size())));
    }
  }

  const ShardIndex& index() const override { return index_; }
  const std::string& path() const override { return path_; }
  Digest digest() const override {
    Hasher h;
    for (const auto& part : parts_) h.string(part->digest().hex());
    return h.digest();
  }
  std::span<const std::shared_ptr<const ShardFolder>> parts() const override {
    return parts_;
  }

  std::vector<Sample> read(std::int64_t first,
                           std::int64_t count) const override {
    return over_parts<Sample>(first, count,
                              [](const ShardFolder& part, std::int64_t at,
                                 std::int64_t n) { return part.read(at, n); });
  }
  std::vector<Sample> gather(
      std::span<const std::int64_t> ascending) const override {
    std::vector<Sample> out;
    for (std::size_t at = 0; at < ascending.size();) {
      const std::size_t p = part_of(ascending[at]);
      const std::int64_t end = begin_[p] + parts_[p]->index().samples;
      std::vector<std::int64_t> local;
      for (; at < ascending.size() && ascending[at] < end; ++at) {
        local.push_back(ascending[at] - begin_[p]);
      }
      std::ranges::move(parts_[p]->gather(local), std::back_inserter(out));
    }
    return out;
  }
  References references(std::int64_t first, std::int64_t count) const override {
    auto out = over_parts<References::value_type>(
        first, count,
        [](const ShardFolder& part, std::int64_t at, std::int64_t n) {
          return part.references(at, n);
        });
    if (out.size() != static_cast<std::size_t>(count)) out.clear();
    return out;
  }
  const std::vector<std::int32_t>& lengths() const override {
    std::call_once(lengths_once_,
                   [&] { lengths_ = lengths(0, index_.samples); });
    return lengths_;
  }
  std::vector<std::int32_t> lengths(std::int64_t first,
                                    std::int64_t count) const override {
    return over_parts<std::int32_t>(
        first, count,
        [](const ShardFolder& part, std::int64_t at, std::int64_t n) {
          return part.lengths(at, n);
        });
  }
  void verify() const override {
    for (const auto& part : parts_) part->verify();
  }
  const std::vector<std::string>& vocabulary() const override {
    return parts_.front()->vocabulary();
  }

 private:
  std::size_t part_of(std::int64_t sample) const {
    if (sample < 0 || sample >= index_.samples) {
      fail<UsageError>("{}: sample {} is outside its {}", path_, sample,
                       index_.samples);
    }
    const auto after = std::ranges::upper_bound(begin_, sample);
    return static_cast<std::size_t>(after - begin_.begin()) - 1;
  }

  template <class T, class Read>  // (part, first in it, how many)
  std::vector<T> over_parts(std::int64_t first, std::int64_t count,
                            Read read) const {
    std::vector<T> out;
    for (std::int64_t done = 0; done < count;) {
      const std::size_t p = part_of(first + done);
      const std::int64_t at = first + done - begin_[p];
      const std::int64_t n =
          std::min(count - done, parts_[p]->index().samples - at);
      std::ranges::move(read(*parts_[p], at, n), std::back_inserter(out));
      done += n;
    }
    return out;
  }

  ShardIndex index_;
  std::string path_;  // all of them, for messages
  std::vector<std::shared_ptr<const ShardFolder>> parts_;
  std::vector<std::int64_t> begin_;  // of each part, in samples
  mutable std::once_flag lengths_once_;
  mutable std::vector<std::int32_t> lengths_;
};

}  // namespace

std::shared_ptr<const ShardFolder> join_task_folders(
    const std::vector<std::shared_ptr<const ShardFolder>>& folders) {
  THINWIRE_ASSERT(!folders.empty(), "no folders to join");
  return std::make_shared<JoinedFolders>(folders);
}

}  // namespace thinwire
