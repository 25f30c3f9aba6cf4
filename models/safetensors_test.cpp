#include "models/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>

#include "base/error.h"
#include "base/random.h"
#include "models/safetensors_header.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  void SetUp() override {
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    folder_ =
        fs::temp_directory_path() / (std::string("thinwire_") + test->name() +
                                     "_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }
  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }

  fs::path folder_;
};

std::string length_prefix(std::uint64_t n) {
  std::string out(8, '\0');
  std::memcpy(out.data(), &n, 8);
  return out;
}

std::string file_bytes(const std::string& header, std::size_t data) {
  return length_prefix(header.size()) + header + std::string(data, '\1');
}

SafetensorsHeader parse(const std::string& bytes) {
  return read_safetensors_header("f", std::as_bytes(std::span(bytes)));
}

std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(SafetensorsTest, RoundTripKeepsEveryDtypeBitForBit) {
  NamedTensors tensors;
  for (const auto type :
       {at::kBool, at::kHalf, at::kFloat, at::kBFloat16, at::kDouble, at::kLong,
        at::kInt, at::kShort, at::kChar, at::kByte, at::kUInt16, at::kUInt32,
        at::kUInt64}) {
    tensors.emplace_back(std::string("t.") + c10::toString(type),
                         at::arange(6).remainder(2).reshape({2, 3}).to(type));
  }
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("empty", at::zeros({0, 7}));
  tensors.emplace_back("transposed", at::arange(6).reshape({2, 3}).t());
  write_safetensors(path("a"), tensors, {{"k", "v \"quoted\""}});

  const SafetensorsFile file(path("a"));
  EXPECT_EQ(file.names().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("k"), "v \"quoted\"");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor back = file.tensor(name);
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(back.equal(tensor)) << name;
  }
  EXPECT_FALSE(fs::exists(path("a.tmp")));
  EXPECT_EQ(read_all(path("a")).size() % 2, 0u);
}

TEST_F(SafetensorsTest, TensorsOutliveTheFileAndWritesStayPrivate) {
  write_safetensors(path("a"), {{"x", at::arange(4, at::kFloat)}});
  const std::string before = read_all(path("a"));
  at::Tensor first;
  {
    const SafetensorsFile file(path("a"));
    first = file.tensor("x");
    first.fill_(7);
    EXPECT_TRUE(file.tensor("x").equal(first)) << "one mapping per open file";
  }
  EXPECT_EQ(first.sum().item<float>(), 28);
  EXPECT_EQ(read_all(path("a")), before);
  EXPECT_TRUE(
      SafetensorsFile(path("a")).tensor("x").equal(at::arange(4, at::kFloat)));
}

TEST_F(SafetensorsTest, MisalignedDataIsCopied) {
  const std::string header =
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
      R"("x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  std::string bytes = file_bytes(header, 9);
  const float values[] = {1.5f, -2.0f};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  const at::Tensor x = SafetensorsFile(write("a", bytes)).tensor("x");
  EXPECT_EQ(x[0].item<float>(), 1.5f);
  EXPECT_EQ(x[1].item<float>(), -2.0f);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data_ptr()) % 4, 0u);
}

TEST_F(SafetensorsTest, UnknownNameNamesTheNearest) {
  write_safetensors(path("a"), {{"bert.pooler", at::zeros({1})},
                                {"classifier", at::zeros({1})}});
  try {
    SafetensorsFile(path("a")).tensor("bert.poler");
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("no tensor 'bert.poler' (the nearest is "
                                    "'bert.pooler')"));
  }
}

struct Bad {
  const char* name;
  std::string bytes;
  const char* message;
};

std::vector<Bad> corpus() {
  const auto one = [](const char* fields, std::size_t data) {
    return file_bytes(std::string("{\"x\":{") + fields + "}}", data);
  };
  return {
      {"empty file", "", "truncated"},
      {"short length", "1234567", "truncated"},
      {"length past the end", length_prefix(1000) + "{}", "truncated"},
      {"length of 2^63", length_prefix(1ull << 63) + "{}", "limit"},
      {"length over 100 MB", length_prefix(100'000'001) + "{}", "limit"},
      {"no JSON", file_bytes("", 0), "not valid JSON"},
      {"broken JSON", file_bytes("{\"x\":", 0), "not valid JSON"},
      {"two documents", file_bytes("{}{}", 0), "not valid JSON"},
      {"not UTF-8", file_bytes("{\"\xff\":{}}", 0), "not valid JSON"},
      {"array at the top", file_bytes("[]", 0), "a JSON object"},
      {"deep nesting", file_bytes(std::string(100'000, '['), 0), "an array"},
      {"tensor is a number", file_bytes("{\"x\":1}", 0), "a number"},
      {"tensor is null", file_bytes("{\"x\":null}", 0), "null"},
      {"metadata is a list", file_bytes(R"({"__metadata__":[]})", 0),
       "an array"},
      {"metadata value", file_bytes(R"({"__metadata__":{"a":1}})", 0),
       "a number"},
      {"metadata twice",
       file_bytes(R"({"__metadata__":{},"__metadata__":{}})", 0), "twice"},
      {"metadata key twice",
       file_bytes(R"({"__metadata__":{"a":"","a":""}})", 0), "twice"},
      {"no dtype", one(R"("shape":[],"data_offsets":[0,4])", 4), "lacks dtype"},
      {"no shape", one(R"("dtype":"F32","data_offsets":[0,4])", 4),
       "lacks shape"},
      {"no offsets", one(R"("dtype":"F32","shape":[])", 4),
       "lacks data_offsets"},
      {"field twice",
       one(R"("dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4])", 4),
       "field 'dtype' twice"},
      {"unknown field", one(R"("stride":[1])", 0), "unknown field 'stride'"},
      {"unknown dtype",
       one(R"("dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4])", 4),
       "dtype 'F8_E4M3', which is not supported"},
      {"shape is a string",
       one(R"("dtype":"F32","shape":"4","data_offsets":[0,4])", 4), "a string"},
      {"negative dimension",
       one(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])", 4),
       "-1 in shape; it must not be negative"},
      {"fractional dimension",
       one(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])", 4),
       "must be a 64-bit integer"},
      {"dimension above 2^64",
       one(R"("dtype":"F32","shape":[99999999999999999999],)"
           R"("data_offsets":[0,4])",
           4),
       "must be a 64-bit integer"},
      {"dimension above 2^63",
       one(R"("dtype":"F32","shape":[9223372036854775808],)"
           R"("data_offsets":[0,4])",
           4),
       "overflows"},
      {"product overflows to 0",
       one(R"("dtype":"F32","shape":[4294967296,4294967296],)"
           R"("data_offsets":[0,0])",
           0),
       "overflows"},
      {"bytes overflow",
       one(R"("dtype":"F32","shape":[4611686018427387904],)"
           R"("data_offsets":[0,0])",
           0),
       "overflows"},
      {"strides of an empty tensor overflow",
       one(R"("dtype":"F32","shape":[0,4294967296,4294967296],)"
           R"("data_offsets":[0,0])",
           0),
       "overflows"},
      {"too many dimensions",
       one(R"("dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,)"
           R"(1,1,1,1,1,1,1,1,1,1,1,1,1],"data_offsets":[0,1])",
           1),
       "more than 32 dimensions"},
      {"one offset", one(R"("dtype":"F32","shape":[],"data_offsets":[0])", 4),
       "1 data_offsets instead of 2"},
      {"three offsets",
       one(R"("dtype":"F32","shape":[],"data_offsets":[0,4,8])", 4),
       "3 data_offsets instead of 2"},
      {"negative offset",
       one(R"("dtype":"F32","shape":[],"data_offsets":[-4,0])", 4),
       "-4 in data_offsets"},
      {"offsets reversed",
       one(R"("dtype":"F32","shape":[],"data_offsets":[4,0])", 4),
       "takes 4 bytes"},
      {"shape and offsets disagree",
       one(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])", 4),
       "takes 8 bytes"},
      {"past the end",
       one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])", 7),
       "truncated"},
      {"far past the end",
       one(R"("dtype":"U8","shape":[4],)"
           R"("data_offsets":[18446744073709551611,18446744073709551615])",
           4),
       "truncated"},
      {"trailing bytes",
       one(R"("dtype":"F32","shape":[],"data_offsets":[0,4])", 9),
       "5 trailing bytes"},
      {"hole",
       file_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
                  3),
       "1 bytes before tensor 'b'"},
      {"overlap",
       file_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                  R"("b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
                  3),
       "tensor 'b' overlaps"},
      {"same name twice",
       file_bytes(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                  R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                  2),
       "two tensors are named 'a'"},
  };
}

TEST_F(SafetensorsTest, EveryKindOfCorruptionHasItsOwnLine) {
  for (const Bad& bad : corpus()) {
    SCOPED_TRACE(bad.name);
    const std::string file = write("bad.safetensors", bad.bytes);
    try {
      SafetensorsFile opened(file);
      ADD_FAILURE() << "accepted";
    } catch (const UsageError& e) {
      EXPECT_THAT(e.what(), HasSubstr(file));
      EXPECT_THAT(e.what(), HasSubstr(bad.message));
      EXPECT_THAT(e.what(), testing::Not(HasSubstr("\n")));
    }
  }
}

TEST_F(SafetensorsTest, MissingFileAndFolderAreIoErrors) {
  EXPECT_THROW(SafetensorsFile(path("absent")), IoError);
  EXPECT_THROW(SafetensorsFile{folder_.string()}, IoError);
}

// A valid file of a few tensors, to be damaged.
std::string good_bytes(const std::string& path) {
  write_safetensors(path, {{"a.weight", at::arange(6, at::kFloat)},
                           {"b", at::arange(3, at::kLong)},
                           {"c", at::zeros({0, 2}, at::kHalf)}});
  return read_all(path);
}

// Either a typed error or a header that is true to the file.
void expect_typed_error_or_sane(const std::string& bytes) {
  try {
    const SafetensorsHeader header = parse(bytes);
    std::uint64_t total = 0;
    for (const auto& e : header.entries) {
      ASSERT_LE(e.end, bytes.size() - header.data_begin);
      total += e.end - e.begin;
    }
    ASSERT_EQ(total, bytes.size() - header.data_begin);
  } catch (const UsageError&) {
  }
}

TEST_F(SafetensorsTest, EveryTruncationIsRefused) {
  const std::string good = good_bytes(path("a"));
  for (std::size_t n = 0; n < good.size(); ++n) {
    EXPECT_THROW(parse(good.substr(0, n)), UsageError) << n;
  }
}

TEST_F(SafetensorsTest, NoBitFlipCrashes) {
  const std::string good = good_bytes(path("a"));
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    expect_typed_error_or_sane(bytes);
  }
}

TEST_F(SafetensorsTest, NoRandomDamageCrashes) {
  const std::string good = good_bytes(path("a"));
  const PhiloxKey key = make_key(1, Purpose::kTest);
  const std::string_view alphabet = "{}[]\",:0123456789-e.\\u\n\x00\xff";
  for (std::uint32_t i = 0; i < 20'000; ++i) {
    std::string bytes = good;
    for (std::uint32_t j = 0; j < 1 + i % 5; ++j) {
      const PhiloxBlock r = philox(key, {i, j, 0, 0});
      const std::size_t at = r[0] % bytes.size();
      const char c = alphabet[r[1] % alphabet.size()];
      if (r[2] % 3 == 0) {
        bytes.insert(at, 1, c);
      } else if (r[2] % 3 == 1) {
        bytes.erase(at, 1 + r[3] % 8);
      } else {
        bytes[at] = c;
      }
      if (bytes.empty()) bytes = "x";
    }
    expect_typed_error_or_sane(bytes);
  }
}

TEST_F(SafetensorsTest, AHundredThousandEntriesAreReadAndTheLastErrorFound) {
  std::string header = "{";
  const int n = 100'000;
  for (int i = 0; i < n; ++i) {
    header += fmt::format(
        R"({}"t{}":{{"dtype":"U8","shape":[1],"data_offsets":[{},{}]}})",
        i == 0 ? "" : ",", i, i, i + 1);
  }
  const SafetensorsFile file(write("a", file_bytes(header + "}", n)));
  EXPECT_EQ(file.names().size(), static_cast<std::size_t>(n));
  EXPECT_EQ(file.tensor("t99999").item<int>(), 1);
  EXPECT_THROW(parse(file_bytes(header + R"(,"t5":1})", n)), UsageError);
}

TEST_F(SafetensorsTest, AFailedWriteLeavesTheOldFileAndNoRemains) {
  write_safetensors(path("a"), {{"x", at::zeros({2})}});
  const std::string before = read_all(path("a"));
  EXPECT_THROW(write_safetensors(
                   path("a"), {{"x", at::zeros({1})}, {"x", at::zeros({1})}}),
               UsageError);
  EXPECT_THROW(write_safetensors(path("a"), {{"\xff", at::zeros({1})}}),
               UsageError);
  EXPECT_EQ(read_all(path("a")), before);
  // The rename fails: a folder that is not empty stands in the way.
  fs::create_directories(path("d/inside"));
  EXPECT_THROW(write_safetensors(path("d"), {{"x", at::zeros({1})}}), IoError);
  EXPECT_FALSE(fs::exists(path("d.tmp")));
  EXPECT_THROW(write_safetensors(path("absent/a"), {{"x", at::zeros({1})}}),
               IoError);
}

}  // namespace
}  // namespace thinwire
