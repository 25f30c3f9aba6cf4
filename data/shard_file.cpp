#include "data/shard_file.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <system_error>

#include "base/error.h"
#include "data/chunked.h"
#include "data/ragged.h"

namespace thinwire {
namespace {

constexpr std::int64_t kVersion = 1;

}  // namespace

ShardFile::ShardFile(const FolderIndex& folder, const ShardEntry& entry)
    : folder_(&folder), entry_(&entry) {
  check_size();
  const Hdf5File file(entry.path);
  check_attributes(file);

  input_ = ragged(file, "input", ElementType::kInt32, entry.samples);
  if (file.has("target/values")) {
    target_ = ragged(file, "target", ElementType::kInt32, entry.samples);
  }
  if (file.has("references/samples")) {
    reference_lists_ = file.layout("references/samples", ElementType::kInt64);
    const std::int64_t texts =
        file.layout("references/offsets", ElementType::kInt64).count - 1;
    check_offsets(*reference_lists_, entry.samples, texts);
    references_ = ragged(file, "references", ElementType::kUint8, texts);
  } else if (file.has("references/values")) {
    references_ =
        ragged(file, "references", ElementType::kUint8, entry.samples);
  }
  const auto per_sample = [&](const char* name, ElementType type,
                              std::int64_t count) {
    DatasetLayout layout = file.layout(name, type);
    if (layout.count != count) {
      fail<IoError>("{}: /{}: has {} elements, {} are needed", entry.path, name,
                    layout.count, count);
    }
    return layout;
  };
  id_ = per_sample("id", ElementType::kUint64, entry.samples);
  task_ = per_sample("task", ElementType::kInt32, entry.samples);
  if (file.has("types/values")) {
    types_ =
        per_sample("types/values", ElementType::kUint8, input_.values.count);
  }
  const std::string& kind = folder.index.task_kind;
  if (kind == "choose") {
    choices_ = ragged(file, "choices", ElementType::kInt32, entry.samples);
  }
  if (kind == "classify" || kind == "choose") {
    class_label_ = per_sample("label", ElementType::kInt64, entry.samples);
  } else if (kind == "regress") {
    float_label_ = per_sample("label", ElementType::kFloat64, entry.samples);
  }
  if (!target_ && kind != "classify" && kind != "regress" && kind != "lm") {
    fail<UsageError>("{}: has no /target/values, which a {} shard needs",
                     entry.path, kind);
  }
}

void ShardFile::check_size() const {
  std::error_code error;
  const auto size = std::filesystem::file_size(entry_->path, error);
  if (error)
    fail<IoError>("{}: cannot open: {}", entry_->path, error.message());
  if (size != static_cast<std::uintmax_t>(entry_->bytes)) {
    fail<IoError>("{}: has {} bytes, index.json says {}: cut off or replaced",
                  entry_->path, size, entry_->bytes);
  }
}

void ShardFile::check_attributes(const Hdf5File& file) const {
  const std::string& path = entry_->path;
  const std::int64_t version = file.integer_attribute("thinwire_format");
  if (version != kVersion) {
    fail<UsageError>(
        "{}: shard format version {}, this program reads {} "
        "(prepare the data again)",
        path, version, kVersion);
  }
  const ShardIndex& i = folder_->index;
  const auto same = [&](const char* name, const auto& here, const auto& there) {
    if (here != there) {
      fail<IoError>("{}: {} is {}, index.json says {}: not of this folder",
                    path, name, here, there);
    }
  };
  same("samples", file.integer_attribute("samples"), entry_->samples);
  same("task_kind", file.text_attribute("task_kind"), i.task_kind);
  same("vocab_size", file.integer_attribute("vocab_size"), i.vocab_size);
  same("pad_id", file.integer_attribute("pad_id"), i.pad_id);
  same("eos_id", file.integer_attribute("eos_id"), i.eos_id);
  same("tokenizer_sha256", file.text_attribute("tokenizer_sha256"),
       i.tokenizer_sha256);
}

ShardFile::Ragged ShardFile::ragged(const Hdf5File& file,
                                    const std::string& group, ElementType type,
                                    std::int64_t entries) const {
  Ragged r{file.layout(group + "/values", type),
           file.layout(group + "/offsets", ElementType::kInt64)};
  check_offsets(r.offsets, entries, r.values.count);
  return r;
}

void ShardFile::check_offsets(const DatasetLayout& offsets,
                              std::int64_t entries, std::int64_t total) const {
  const std::string& path = entry_->path;
  if (offsets.count != entries + 1) {
    fail<IoError>("{}: /{}: has {} entries, {} + 1 are needed", path,
                  offsets.name, offsets.count, entries);
  }
  const Descriptor fd = open_file(path);
  ChunkCursor cursor(path, fd.get(), offsets);
  std::int64_t first = 0, last = 0;
  cursor.read(0, 1, &first);
  cursor.read(entries, 1, &last);
  if (first != 0 || last != total) {
    fail<IoError>("{}: /{}: runs from {} to {}, not from 0 to {}", path,
                  offsets.name, first, last, total);
  }
}

void ShardFile::gather(std::span<const std::int64_t> ascending,
                       Sample* out) const {
  const std::string& path = entry_->path;
  const ShardIndex& index = folder_->index;
  const Descriptor file = open_file(path);
  const int fd = file.get();
  const auto tokens = [&](RaggedCursor& from, const DatasetLayout& layout,
                          std::int64_t sample, RaggedCursor::Range range,
                          std::int64_t limit) {
    if (range.count > limit) {
      fail<IoError>("{}: /{}: sample {} has {} tokens, index.json allows {}",
                    path, layout.name, sample, range.count, limit);
    }
    auto ids = from.values<std::int32_t>(range);
    for (const std::int32_t id : ids) {
      if (id < 0 || id >= index.vocab_size) {
        fail<IoError>("{}: /{}: sample {} has token id {}, the vocabulary {}",
                      path, layout.name, sample, id, index.vocab_size);
      }
    }
    return ids;
  };

  // A cursor unpacks nothing until it is read, so unused ones cost nothing.
  RaggedCursor input(path, fd, input_.values, input_.offsets);
  const Ragged& t = target_ ? *target_ : input_;
  RaggedCursor target(path, fd, t.values, t.offsets);
  const Ragged& c = choices_ ? *choices_ : input_;
  RaggedCursor choices(path, fd, c.values, c.offsets);
  ChunkCursor types(path, fd, types_ ? *types_ : id_);
  ChunkCursor classes(path, fd, class_label_ ? *class_label_ : id_);
  ChunkCursor numbers(path, fd, float_label_ ? *float_label_ : id_);
  ChunkCursor ids(path, fd, id_), tasks(path, fd, task_);

  for (const std::int64_t i : ascending) {
    Sample& s = *out++;
    ids.read(i, 1, &s.id);
    tasks.read(i, 1, &s.task);
    const auto range = input.range(i);
    s.input = tokens(input, input_.values, i, range, index.max_input);
    s.types.clear();
    if (types_) {
      const auto bytes = types.read<std::uint8_t>(range.first, range.count);
      s.types.assign(bytes.begin(), bytes.end());
    }
    s.target.clear();
    if (target_) {
      s.target = tokens(target, t.values, i, target.range(i), index.max_target);
    }
    s.choices.clear();
    if (choices_) {
      s.choices = choices.values<std::int32_t>(choices.range(i));
    }
    if (class_label_) {
      std::int64_t label = 0;
      classes.read(i, 1, &label);
      if (label < 0 || label >= index.labels) {
        fail<IoError>("{}: /label: sample {} has class {} of {}", path, i,
                      label, index.labels);
      }
      s.label = static_cast<double>(label);
      if (choices_) check_choices(i, s);
    } else if (float_label_) {
      numbers.read(i, 1, &s.label);
      if (!std::isfinite(s.label)) {
        fail<IoError>("{}: /label: sample {} is not finite", path, i);
      }
    }
  }
}

void ShardFile::check_choices(std::int64_t sample, const Sample& s) const {
  std::int64_t tokens = 0;
  for (const std::int32_t length : s.choices) {
    if (length < 1) {
      fail<IoError>("{}: /choices: sample {} has a choice of {} tokens",
                    entry_->path, sample, length);
    }
    tokens += length;
  }
  if (tokens != std::ssize(s.target) || s.label >= std::ssize(s.choices)) {
    fail<IoError>(
        "{}: /choices: sample {} has {} choices of {} tokens, a target of {} "
        "and answer {}",
        entry_->path, sample, s.choices.size(), tokens, s.target.size(),
        s.label);
  }
}

void ShardFile::lengths(std::int64_t first, std::int64_t count,
                        std::int32_t* out) const {
  const std::string& path = entry_->path;
  const Descriptor fd = open_file(path);
  std::fill(out, out + count, 0);
  const auto add = [&](const Ragged& r) {
    ChunkCursor offsets(path, fd.get(), r.offsets);
    const auto ends = offsets.read<std::int64_t>(first, count + 1);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto k = static_cast<std::size_t>(i);
      if (ends[k] < 0 || ends[k + 1] < ends[k] ||
          ends[k + 1] > r.values.count ||
          ends[k + 1] - ends[k] >
              std::numeric_limits<std::int32_t>::max() - out[i]) {
        fail<IoError>("{}: /{}: entry {} is damaged: [{}, {}) of {}", path,
                      r.offsets.name, first + i, ends[k], ends[k + 1],
                      r.values.count);
      }
      out[i] += static_cast<std::int32_t>(ends[k + 1] - ends[k]);
    }
  };
  add(input_);
  if (target_) add(*target_);
}

bool ShardFile::references(std::int64_t first, std::int64_t count,
                           std::vector<std::string>* out) const {
  if (!references_) return false;
  const Descriptor fd = open_file(entry_->path);
  RaggedCursor texts(entry_->path, fd.get(), references_->values,
                     references_->offsets);
  RaggedCursor lists(
      entry_->path, fd.get(), references_->offsets,
      reference_lists_ ? *reference_lists_ : references_->offsets);
  for (std::int64_t i = first; i < first + count; ++i, ++out) {
    RaggedCursor::Range which{i, 1};
    if (reference_lists_) which = lists.range(i);
    if (which.count < 1) {
      fail<IoError>("{}: /{}: sample {} has no reference", entry_->path,
                    reference_lists_->name, i);
    }
    out->clear();
    for (std::int64_t k = 0; k < which.count; ++k) {
      const auto bytes = texts.values<char>(texts.range(which.first + k));
      out->emplace_back(bytes.begin(), bytes.end());
    }
  }
  return true;
}

std::vector<const DatasetLayout*> ShardFile::layouts() const {
  std::vector<const DatasetLayout*> all = {&input_.values, &input_.offsets,
                                           &id_, &task_};
  for (const auto* r : {&target_, &references_, &choices_}) {
    if (*r) {
      all.push_back(&(*r)->values);
      all.push_back(&(*r)->offsets);
    }
  }
  for (const auto* d :
       {&reference_lists_, &types_, &float_label_, &class_label_}) {
    if (*d) all.push_back(&**d);
  }
  return all;
}

void ShardFile::verify() const {
  const std::string& path = entry_->path;
  check_size();
  const Descriptor fd = open_file(path);
  // Chunks first: they say where the damage is.
  for (const DatasetLayout* layout : layouts()) {
    ChunkCursor(path, fd.get(), *layout).verify();
  }
  const Digest digest = hash_file(path);
  if (digest != entry_->digest) {
    fail<IoError>(
        "{}: its XXH3-128 is {}, index.json says {}: damaged or "
        "replaced",
        path, digest.hex(), entry_->digest.hex());
  }
}

}  // namespace thinwire
