#include "models/tensor_source.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <type_traits>

#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/nearest.h"
#include "base/random.h"
#include "models/mapping.h"
#include "models/safetensors.h"
#include "ops/quantise.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// Names sorted; which file of the folder holds each.
class HfFolder : public TensorSource {
 public:
  HfFolder(const std::string& path, std::string_view prefix)
      : path_(path), prefix_(std::string(prefix) + ".") {
    std::error_code ignored;
    if (!fs::is_directory(path_, ignored)) {
      fail<IoError>(
          "{}: no such folder (a model folder holds config.json and "
          "model.safetensors)",
          path_);
    }
    const fs::path single = fs::path(path_) / "model.safetensors";
    const fs::path index = fs::path(path_) / "model.safetensors.index.json";
    if (fs::exists(single, ignored)) {
      add_file(single.string());
    } else if (fs::exists(index, ignored)) {
      add_shards(index.string());
    } else if (fs::exists(fs::path(path_) / "pytorch_model.bin", ignored) ||
               fs::exists(fs::path(path_) / "pytorch_model.bin.index.json",
                          ignored)) {
      fail<UsageError>(
          "{}: holds pytorch_model.bin only; convert it to "
          "model.safetensors first (in Python: "
          "AutoModel.from_pretrained(DIR).save_pretrained(DIR))",
          path_);
    } else {
      fail<IoError>(
          "{}: holds neither model.safetensors nor "
          "model.safetensors.index.json",
          path_);
    }
  }

  bool contains(std::string_view name) const override {
    return locate(name).has_value();
  }

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init&,
                 bool required) override {
    const at::Tensor found = find(names, shape, required);
    return found.defined() ? found.to(at::kFloat) : found;
  }

  at::Tensor stored(const std::vector<std::string>& names,
                    const std::vector<std::int64_t>& shape) override {
    return find(names, shape, /*required=*/true);
  }

  bool same(const std::string& name, const std::vector<std::string>& others,
            const std::vector<std::int64_t>& shape) override {
    const at::Tensor a = find({name}, shape, false);
    const at::Tensor b = find(others, shape, false);
    return a.defined() && b.defined() && a.scalar_type() == b.scalar_type() &&
           std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
  }

  std::vector<std::string> files() const override { return paths_; }

 private:
  at::Tensor find(const std::vector<std::string>& names,
                  const std::vector<std::int64_t>& shape, bool required) const {
    for (const std::string& name : names) {
      if (const auto found = locate(name)) return load(*found, shape);
    }
    if (!required) return {};
    std::vector<std::string> known;
    for (const auto& [name, file] : files_of_) known.push_back(name);
    fail<UsageError>(
        "{}: tensor '{}' [{}] is missing (the nearest is '{}'; "
        "is this the config of this checkpoint?)",
        path_, names.front(), fmt::join(shape, ", "),
        nearest(names.front(), known));
  }

  void add_file(const std::string& file) {
    files_.emplace_back(file);
    paths_.push_back(file);
    for (const auto& name : files_.back().names()) {
      files_of_.emplace(name, files_.size() - 1);
    }
  }

  void add_shards(const std::string& index) {
    paths_.push_back(index);
    std::ifstream in(index, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) fail<IoError>("{}: cannot read", index);
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(text.str());
    } catch (const nlohmann::json::exception& e) {
      fail<UsageError>("{}: not valid JSON: {}", index, e.what());
    }
    if (!json.is_object() || !json.contains("weight_map") ||
        !json["weight_map"].is_object()) {
      fail<UsageError>("{}: weight_map is missing or not an object", index);
    }
    std::map<std::string, std::size_t> opened;
    for (const auto& [name, value] : json["weight_map"].items()) {
      const std::string shard =
          value.is_string() ? value.get<std::string>() : "";
      if (shard.empty() || fs::path(shard).filename() != shard) {
        fail<UsageError>(
            "{}: weight_map of '{}' must be a file name in this "
            "folder, got {}",
            index, name, value.dump());
      }
      auto at = opened.find(shard);
      if (at == opened.end()) {
        files_.emplace_back((fs::path(path_) / shard).string());
        paths_.push_back(files_.back().path());
        at = opened.emplace(shard, files_.size() - 1).first;
      }
      if (!files_[at->second].contains(name)) {
        fail<UsageError>(
            "{}: tensor '{}' is not in {}, where the index puts "
            "it",
            index, name, shard);
      }
      files_of_.emplace(name, at->second);
    }
  }

  // The name on disk: as asked, or without the architecture's prefix.
  std::optional<std::string> locate(std::string_view name) const {
    if (files_of_.contains(std::string(name))) return std::string(name);
    if (!name.starts_with(prefix_)) return std::nullopt;
    std::string bare(name.substr(prefix_.size()));
    if (!files_of_.contains(bare)) return std::nullopt;
    return bare;
  }

  at::Tensor load(const std::string& name,
                  const std::vector<std::int64_t>& shape) const {
    const SafetensorsFile& file = files_[files_of_.at(name)];
    at::Tensor tensor = file.tensor(name);
    if (tensor.sizes() != at::IntArrayRef(shape)) {
      fail<UsageError>(
          "{}: tensor '{}' has shape [{}], the config asks for "
          "[{}]",
          file.path(), name, fmt::join(tensor.sizes(), ", "),
          fmt::join(shape, ", "));
    }
    if (!tensor.is_floating_point()) {
      fail<UsageError>(
          "{}: tensor '{}' has dtype {}; weights must be F32, "
          "F16, BF16 or F64",
          file.path(), name, c10::toString(tensor.scalar_type()));
    }
    return tensor;
  }

  std::string path_;
  std::string prefix_;
  std::vector<std::string> paths_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::size_t> files_of_;
};

class RandomSource : public TensorSource {
 public:
  explicit RandomSource(std::uint64_t seed) : seed_(seed) {}

  bool contains(std::string_view) const override { return false; }

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init& init,
                 bool) override {
    const auto options = at::TensorOptions().dtype(at::kFloat);
    switch (init.kind) {
      case Init::Kind::kZeros:
        return at::zeros(shape, options);
      case Init::Kind::kOnes:
        return at::ones(shape, options);
      case Init::Kind::kNormal:
        break;
    }
    at::Tensor tensor = at::empty(shape, options);
    fill_normal(tensor.mutable_data_ptr<float>(), tensor.numel(), seed_,
                names.front(), init.std);
    return tensor;
  }

 private:
  std::uint64_t seed_;
};

// convert() of the tensor as the file has it, or as it is made up.
template <class Convert>
auto converted(TensorSource& source, const std::vector<std::string>& names,
               const std::vector<std::int64_t>& shape, const Init& init,
               bool required, const Convert& convert) {
  const bool there = std::ranges::any_of(
      names, [&](const std::string& n) { return source.contains(n); });
  const at::Tensor stored = there ? source.stored(names, shape) : at::Tensor();
  if (!stored.defined()) {
    return convert(source.get(names, shape, init, required));
  }
  auto out = convert(stored);
  if constexpr (std::is_same_v<decltype(out), at::Tensor>) {
    if (out.is_alias_of(stored)) return out;  // there was nothing to convert
  }
  forget_pages(stored.const_data_ptr(), stored.nbytes());
  return out;
}

class Bf16Matrices : public TensorSource {
 public:
  explicit Bf16Matrices(std::shared_ptr<TensorSource> source)
      : source_(std::move(source)) {}

  at::ScalarType dtype(const std::vector<std::int64_t>& shape) const override {
    return shape.size() == 2 ? at::kBFloat16 : at::kFloat;
  }

  at::Tensor get(const std::vector<std::string>& names,
                 const std::vector<std::int64_t>& shape, const Init& init,
                 bool required) override {
    return converted(*source_, names, shape, init, required,
                     [&](const at::Tensor& as_is) {
                       return as_is.defined() ? as_is.to(dtype(shape)) : as_is;
                     });
  }

  bool contains(std::string_view name) const override {
    return source_->contains(name);
  }
  at::Tensor stored(const std::vector<std::string>& names,
                    const std::vector<std::int64_t>& shape) override {
    return source_->stored(names, shape);
  }
  bool same(const std::string& name, const std::vector<std::string>& others,
            const std::vector<std::int64_t>& shape) override {
    return source_->same(name, others, shape);
  }
  std::vector<std::string> files() const override { return source_->files(); }

 protected:
  const std::shared_ptr<TensorSource>& source() const { return source_; }

 private:
  std::shared_ptr<TensorSource> source_;
};

class Int8Matrices : public Bf16Matrices {
 public:
  using Bf16Matrices::Bf16Matrices;

  bool has_int8() const override { return true; }

  Matrix matrix(const std::vector<std::string>& names,
                const std::vector<std::int64_t>& shape, const Init& init,
                WeightAxes axes) override {
    auto [q, scale] = converted(
        *source(), names, shape, init, /*required=*/true,
        [&](const at::Tensor& as_is) {
          try {
            return quantise_rows(as_is, axes);
          } catch (const UsageError& error) {
            fail<UsageError>("tensor '{}': {}", names.front(), error.what());
          }
        });
    return {std::move(q), std::move(scale),
            [source = source(), names, shape, init] {
              return Bf16Matrices(source).get(names, shape, init, true);
            },
            axes};
  }
};

}  // namespace

at::ScalarType TensorSource::dtype(const std::vector<std::int64_t>&) const {
  return at::kFloat;
}

std::unique_ptr<TensorSource> bf16_matrices(
    std::shared_ptr<TensorSource> source) {
  return std::make_unique<Bf16Matrices>(std::move(source));
}

std::unique_ptr<TensorSource> int8_matrices(
    std::shared_ptr<TensorSource> source) {
  return std::make_unique<Int8Matrices>(std::move(source));
}

std::shared_ptr<TensorSource> matrices_in(
    std::string_view dtype, std::shared_ptr<TensorSource> source) {
  if (dtype == "bf16") return bf16_matrices(std::move(source));
  if (dtype == "int8") return int8_matrices(std::move(source));
  THINWIRE_ASSERT(dtype == "fp32", "matrices in {}", dtype);
  return source;
}

std::unique_ptr<TensorSource> open_hf_folder(const std::string& path,
                                             std::string_view prefix) {
  return std::make_unique<HfFolder>(path, prefix);
}

std::unique_ptr<TensorSource> random_source(std::uint64_t seed) {
  return std::make_unique<RandomSource>(seed);
}

}  // namespace thinwire
