#include "models/host_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "base/error.h"
#include "models/backbone.h"
#include "models/mapping.h"

namespace thinwire {
namespace {

constexpr char kMagic[] = "TWSTORE1";
constexpr std::size_t kMagicBytes = 8;
constexpr std::int64_t kPage = 4096;
constexpr std::int64_t kPreamble = 16;  // magic and length

std::int64_t round_up(std::int64_t n) {
  return (n + kPage - 1) / kPage * kPage;
}

std::int64_t tensor_bytes(const StoreTensor& t) {
  const auto width = static_cast<std::int64_t>(c10::elementSize(t.dtype));
  return std::accumulate(t.shape.begin(), t.shape.end(), width,
                         std::multiplies<>());
}

std::int64_t outputs(const std::vector<std::int64_t>& shape, WeightAxes axes) {
  return axes == WeightAxes::kOutIn ? shape.front() : shape.back();
}

// Where an int8 matrix's scales are, from its own offset.
constexpr std::int64_t kScaleBytes = sizeof(float);
std::int64_t scale_offset(const StoreTensor& t) {
  return (tensor_bytes(t) + kScaleBytes - 1) / kScaleBytes * kScaleBytes;
}

Matrix read(TensorSource& source, const StoreTensor& t) {
  if (t.dtype == at::kChar) {
    return source.matrix(t.names, t.shape, t.init, t.axes);
  }
  return {source.get(t.names, t.shape, t.init), {}};
}

// Stands for a source: notes what is asked, hands out shapes without memory.
class PlanningSource : public TensorSource {
 public:
  PlanningSource(TensorSource& real, StorePlan& plan)
      : real_(real), plan_(plan) {}

  bool contains(std::string_view name) const override {
    return real_.contains(name);
  }

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init& init,
                 bool required) override {
    // Where values are made up, those of optional tensors are too.
    if (!required && !real_.files().empty() &&
        std::ranges::none_of(
            names, [&](const std::string& n) { return real_.contains(n); })) {
      return {};
    }
    const at::Tensor stored = real_.stored(names, shape);
    StoreTensor t = planned(names, shape, init, real_.dtype(shape));
    t.in_place = stored.defined() && stored.scalar_type() == t.dtype &&
                 !stored.storage().resizable();
    return note(std::move(t));
  }

  Matrix matrix(const std::vector<std::string>& names,
                const std::vector<std::int64_t>& shape, const Init& init,
                WeightAxes axes) override {
    if (!real_.has_int8()) return {get(names, shape, init, true), {}, {}, axes};
    real_.stored(names, shape);  // throws where the file has none such
    StoreTensor t = planned(names, shape, init, at::kChar);
    t.axes = axes;
    t.bytes = scale_offset(t) + kScaleBytes * outputs(shape, axes);
    const at::Tensor scale =
        at::empty({outputs(shape, axes)},
                  at::TensorOptions().dtype(at::kFloat).device(at::kMeta));
    return {note(std::move(t)), scale, [] { return at::Tensor(); }, axes};
  }

  bool same(const std::string& name, const std::vector<std::string>& others,
            const std::vector<std::int64_t>& shape) override {
    return real_.same(name, others, shape);
  }

 private:
  static StoreTensor planned(const std::vector<std::string>& names,
                             const std::vector<std::int64_t>& shape,
                             const Init& init, at::ScalarType dtype) {
    StoreTensor t;
    t.names = names;
    t.shape = shape;
    t.init = init;
    t.dtype = dtype;
    t.bytes = tensor_bytes(t);
    return t;
  }

  at::Tensor note(StoreTensor t) {
    plan_.bytes += t.bytes;
    if (t.in_place) plan_.in_place += t.bytes;
    plan_.tensors.push_back(std::move(t));
    const StoreTensor& last = plan_.tensors.back();
    return at::empty(last.shape,
                     at::TensorOptions().dtype(last.dtype).device(at::kMeta));
  }

  TensorSource& real_;
  StorePlan& plan_;
};

// The same length whatever the digests.
std::string header_text(const StorePlan& plan,
                        std::span<const Digest> digests) {
  nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    const StoreTensor& t = plan.tensors[i];
    tensors.push_back({{"name", t.names.front()},
                       {"dtype", dtype_name(t.dtype)},
                       {"shape", t.shape},
                       {"offset", t.offset},
                       {"digest", digests[i].hex()}});
  }
  return nlohmann::ordered_json{{"tensors", tensors}}.dump();
}

std::int64_t tensors_begin(const StorePlan& plan) {
  const std::vector<Digest> blank(plan.tensors.size());
  return round_up(kPreamble +
                  static_cast<std::int64_t>(header_text(plan, blank).size()));
}

class StoreSource : public TensorSource {
 public:
  StoreSource(const std::string& path, const StorePlan& plan,
              std::shared_ptr<TensorSource> original)
      : path_(path),
        begin_(tensors_begin(plan)),
        mapping_(std::make_shared<Mapping>(path)),
        original_(std::move(original)) {
    THINWIRE_ASSERT(
        mapping_->size() == static_cast<std::size_t>(plan.file_bytes),
        "{}: {} bytes, {} planned", path, mapping_->size(), plan.file_bytes);
    for (const StoreTensor& t : plan.tensors) places_[t.names.front()] = t;
  }

  bool contains(std::string_view name) const override {
    return original_->contains(name);
  }

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    const auto at = places_.find(names.front());
    if (at == places_.end() && !required) return {};
    THINWIRE_ASSERT(at != places_.end() && at->second.shape == shape,
                    "{}: '{}' was not planned so", path_, names.front());
    return mapped(at->second.offset, shape, at->second.dtype);
  }

  Matrix matrix(const std::vector<std::string>& names,
                const std::vector<std::int64_t>& shape, const Init& init,
                WeightAxes axes) override {
    Matrix m{get(names, shape, init, true), {}, {}, axes};
    if (m.tensor.scalar_type() != at::kChar) return m;
    const StoreTensor& t = places_.at(names.front());
    m.scale =
        mapped(t.offset + scale_offset(t), outputs(shape, axes), at::kFloat);
    m.exact = [original = original_, names, shape, init] {
      return original->get(names, shape, init);
    };
    return m;
  }

  bool same(const std::string& name, const std::vector<std::string>& others,
            const std::vector<std::int64_t>& shape) override {
    return original_->same(name, others, shape);
  }

 private:
  at::Tensor mapped(std::int64_t offset, at::IntArrayRef shape,
                    at::ScalarType dtype) const {
    return at::from_blob(
        mapping_->data() + begin_ + offset, shape,
        [mapping = mapping_](void*) {}, at::TensorOptions().dtype(dtype));
  }

  std::string path_;
  std::int64_t begin_;
  std::shared_ptr<Mapping> mapping_;
  std::shared_ptr<TensorSource> original_;
  std::map<std::string, StoreTensor> places_;
};

}  // namespace

StorePlan plan_store(const ModelConfig& config, TensorSource& source) {
  StorePlan plan;
  PlanningSource planning(source, plan);
  make_backbone(config, planning);
  std::int64_t offset = 0;
  for (StoreTensor& t : plan.tensors) {
    t.offset = offset;
    offset += round_up(t.bytes);
  }
  plan.file_bytes = tensors_begin(plan) + offset;
  return plan;
}

std::vector<std::vector<std::size_t>> deal(const StorePlan& plan, int workers) {
  std::vector<std::size_t> order(plan.tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, std::ranges::greater{}, [&](std::size_t i) {
    return plan.tensors[i].bytes;
  });
  std::vector<std::vector<std::size_t>> shares(
      static_cast<std::size_t>(workers));
  std::vector<std::int64_t> load(shares.size(), 0);
  for (const std::size_t i : order) {
    const auto least =
        static_cast<std::size_t>(std::ranges::min_element(load) - load.begin());
    shares[least].push_back(i);
    load[least] += plan.tensors[i].bytes;
  }
  return shares;
}

Digest identity_of(const StorePlan& plan, std::span<const Digest> digests) {
  std::vector<TensorDigest> tensors;
  for (std::size_t i = 0; i < plan.tensors.size(); ++i) {
    tensors.push_back({plan.tensors[i].names.front(), plan.tensors[i].dtype,
                       plan.tensors[i].shape, digests[i]});
  }
  return backbone_identity(std::move(tensors));
}

StoreWriter StoreWriter::create(const std::string& temporary,
                                const StorePlan& plan) {
  StoreWriter w(File(::open(temporary.c_str(),
                            O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644)),
                temporary, plan);
  // The lock tells a sweep that its maker lives.
  if (!w.file_ || ::flock(w.file_.get(), LOCK_SH) != 0) w.die("cannot create");
  // All blocks now: a disk that fills up later would end a process that maps
  // the file.
  errno = ::posix_fallocate(w.file_.get(), 0, plan.file_bytes);
  if (errno != 0) w.die("cannot reserve its blocks");
  return w;
}

StoreWriter StoreWriter::join(const std::string& temporary,
                              const StorePlan& plan) {
  StoreWriter w(File(::open(temporary.c_str(), O_RDWR | O_CLOEXEC)), temporary,
                plan);
  if (!w.file_) w.die("cannot open");
  return w;
}

void StoreWriter::write(const void* data, std::size_t bytes,
                        std::int64_t offset) {
  const char* p = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = ::pwrite(
        file_.get(), p, std::min<std::size_t>(bytes, 1u << 30), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) die("cannot write");
    p += done;
    offset += done;
    bytes -= static_cast<std::size_t>(done);
  }
}

Digest StoreWriter::fill(std::size_t i, TensorSource& source) {
  const StoreTensor& t = plan_->tensors[i];
  const auto [tensor, scale, exact, axes] = read(source, t);
  const at::Tensor rows = tensor.contiguous();
  const std::int64_t begin = tensors_begin(*plan_) + t.offset;
  write(rows.const_data_ptr(), rows.nbytes(), begin);
  if (scale.defined()) {
    write(scale.const_data_ptr(), scale.nbytes(), begin + scale_offset(t));
  }
  return digest_of(rows, scale);
}

void StoreWriter::publish(std::span<const Digest> digests,
                          const std::string& path) {
  const std::string text = header_text(*plan_, digests);
  const std::uint64_t length = text.size();
  write(text.data(), text.size(), kPreamble);
  write(&length, sizeof length, kMagicBytes);
  write(kMagic, kMagicBytes, 0);
  // Its digests are trusted from now on, after a power cut too.
  if (::fsync(file_.get()) != 0) die("cannot flush");
  if (::fchmod(file_.get(), 0444) != 0) die("cannot make read-only");
  if (::rename(temporary_.c_str(), path.c_str()) != 0) die("cannot rename");
}

void StoreWriter::die(const char* what) const {
  fail<IoError>("{}: {}: {}", temporary_, what, std::strerror(errno));
}

std::optional<std::vector<Digest>> read_store(const std::string& path,
                                              const StorePlan& plan) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!file || ::fstat(file.get(), &info) != 0 ||
      info.st_size != plan.file_bytes) {
    return std::nullopt;
  }
  std::string head(static_cast<std::size_t>(tensors_begin(plan)), '\0');
  if (::pread(file.get(), head.data(), head.size(), 0) !=
          static_cast<ssize_t>(head.size()) ||
      !head.starts_with(kMagic)) {
    return std::nullopt;
  }
  std::uint64_t length = 0;
  std::memcpy(&length, head.data() + kMagicBytes, sizeof length);
  if (length > head.size() - kPreamble) return std::nullopt;
  const std::string text = head.substr(kPreamble, length);
  const auto json = nlohmann::json::parse(text, nullptr, false);
  std::vector<Digest> digests;
  try {
    for (const auto& t : json.at("tensors")) {
      digests.push_back(Digest::from_hex(t.at("digest").get<std::string>()));
    }
  } catch (const std::exception&) {
    return std::nullopt;
  }
  if (digests.size() != plan.tensors.size() ||
      header_text(plan, digests) != text) {
    return std::nullopt;
  }
  return digests;
}

Digest hash_stored(TensorSource& store, const StorePlan& plan, std::size_t i) {
  const Matrix m = read(store, plan.tensors[i]);
  return digest_of(m.tensor, m.scale);
}

std::unique_ptr<TensorSource> open_store(
    const std::string& path, const StorePlan& plan,
    std::shared_ptr<TensorSource> original) {
  return std::make_unique<StoreSource>(path, plan, std::move(original));
}

}  // namespace thinwire
