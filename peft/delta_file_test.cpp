#include "peft/delta_file.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/error.h"
#include "models/safetensors.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class DeltaFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() /
              ("thinwire_delta_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    path_ = folder_ / "delta.safetensors";
  }
  void TearDown() override { fs::remove_all(folder_); }

  static Delta make() {
    DeltaBuilder b;
    b.method_config(R"({"method":"lora","r":2})");
    const int no_decay =
        b.group({.name = "no_decay", .weight_decay_factor = 0});
    DeltaEntry a;
    a.name = "lora_A";
    a.shape = {2, 3};
    a.group = no_decay;
    a.active.tasks = {0, 4};
    a.active.from_step = 7;
    b.add(a, at::arange(6, at::kFloat).view({2, 3}));
    b.method_config(R"({"method":"fish_mask"})");
    DeltaEntry m;
    m.name = "fish.w";
    m.kind = EntryKind::kMasked;
    m.shape = {4, 5};
    m.target = "w";
    m.index = at::tensor({0, 6, 19}, at::kInt);
    m.head = true;
    b.add(m, at::arange(3, at::kFloat).add(0.1));
    b.constant("residue.v", at::arange(4, at::kFloat));
    b.buffer("ema", at::arange(2, at::kFloat), BufferRule::kPerRank);
    return b.build();
  }

  // Writes the sound file with its tensors and layout changed.
  void write(const std::function<void(NamedTensors&, json&)>& change) {
    save_delta(path_, make(), Digest{1, 2});
    const SafetensorsFile file(path_);
    NamedTensors tensors;
    for (const std::string& name : file.names()) {
      tensors.emplace_back(name, file.tensor(name).clone());
    }
    json j = json::parse(file.metadata().at("thinwire_delta"));
    change(tensors, j);
    write_safetensors(path_, tensors, {{"thinwire_delta", j.dump()}});
  }

  std::string refusal() {
    try {
      load_delta(path_);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

  static at::Tensor& named(NamedTensors& tensors, std::string_view name) {
    for (auto& [n, t] : tensors) {
      if (n == name) return t;
    }
    throw std::runtime_error("no tensor");
  }

  fs::path folder_, path_;
};

TEST_F(DeltaFileTest, ComesBackWhole) {
  const Delta d = make();
  save_delta(path_, d, Digest{1, 2});
  DeltaFile file = load_delta(path_);
  EXPECT_EQ(file.backbone, (Digest{1, 2}));
  EXPECT_EQ(file.delta.hash(), d.hash());
  EXPECT_TRUE(file.delta.values().equal(d.values()));
  EXPECT_EQ(file.delta.method_configs(), d.method_configs());
  EXPECT_EQ(file.delta.groups(), d.groups());
  EXPECT_EQ(file.delta.entries()[0].active, d.entries()[0].active);
  EXPECT_TRUE(file.delta.entries()[1].head);
  EXPECT_TRUE(file.delta.entries()[1].index.equal(d.entries()[1].index));
  EXPECT_TRUE(file.delta.constants()
                  .at("residue.v")
                  .equal(d.constants().at("residue.v")));
  EXPECT_EQ(file.delta.buffers().at("ema").rule, BufferRule::kPerRank);
  file.delta.leaf(0).sum().backward();
  EXPECT_EQ(file.delta.grads().sum().item<float>(), 6);
}

TEST_F(DeltaFileTest, TheIndexOnDiskIsUnsigned) {
  save_delta(path_, make(), Digest{});
  EXPECT_EQ(SafetensorsFile(path_).tensor("index.fish.w").scalar_type(),
            at::kUInt32);
}

TEST_F(DeltaFileTest, AnEmptyDeltaIsADelta) {
  save_delta(path_, DeltaBuilder().build(), Digest{3, 4});
  EXPECT_EQ(load_delta(path_).delta.size(), 0);
}

TEST_F(DeltaFileTest, EveryTruncationIsRefused) {
  save_delta(path_, make(), Digest{});
  std::ifstream in(path_, std::ios::binary);
  std::stringstream bytes;
  bytes << in.rdbuf();
  const std::string whole = bytes.str();
  for (std::size_t n = 0; n < whole.size(); n += n < 64 ? 1 : 37) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        << whole.substr(0, n);
    EXPECT_NE(refusal().find(path_.string()), std::string::npos) << n;
  }
}

TEST_F(DeltaFileTest, EveryBrokenPromiseIsNamed) {
  struct Case {
    const char* expected;
    std::function<void(NamedTensors&, json&)> change;
  };
  const auto entry = [](json& j, int i) -> json& { return j["entries"][i]; };
  const Case cases[] = {
      {"version 2", [](auto&, json& j) { j["version"] = 2; }},
      {"'version'", [](auto&, json& j) { j.erase("version"); }},
      {"hash is 00000000000000000000000000000000",
       [](auto&, json& j) { j["hash"] = std::string(32, '0'); }},
      {"content gives", [&](auto&, json& j) { entry(j, 0)["name"] = "other"; }},
      {"not ascending at position 2",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") =
             at::tensor({0, 19, 6}, at::kInt).view(at::kUInt32);
       }},
      {"not ascending at position 1",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") =
             at::tensor({6, 6, 19}, at::kInt).view(at::kUInt32);
       }},
      {"entry 'fish.w': index position 2 is 20, the tensor has 20",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") =
             at::tensor({0, 6, 20}, at::kInt).view(at::kUInt32);
       }},
      {"position 0 is 4294967295",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") =
             at::tensor({-1, 6, 19}, at::kInt).view(at::kUInt32);
       }},
      {"2 positions, count is 3",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") =
             at::tensor({0, 6}, at::kInt).view(at::kUInt32);
       }},
      {"must be UInt32",
       [](NamedTensors& t, json&) {
         named(t, "index.fish.w") = at::tensor({0, 6, 19}, at::kInt);
       }},
      {"value 2 is nan",
       [](NamedTensors& t, json&) { named(t, "values")[2] = NAN; }},
      {"value 9 is inf",
       [](NamedTensors& t, json&) { named(t, "values")[9] = INFINITY; }},
      {"number 7 lies in a gap",
       [](NamedTensors& t, json&) { named(t, "values")[7] = 1; }},
      {"`values` has 16",
       [](NamedTensors& t, json&) {
         named(t, "values") = at::arange(16, at::kFloat);
       }},
      {"must be F32",
       [](NamedTensors& t, json&) {
         named(t, "values") = named(t, "values").to(at::kDouble);
       }},
      {"must begin at 0", [&](auto&, json& j) { entry(j, 0)["offset"] = 4; }},
      {"count is 5", [&](auto&, json& j) { entry(j, 0)["count"] = 5; }},
      {"of 12, must begin",
       [&](auto&, json& j) {
         entry(j, 0)["shape"] = {1LL << 40, 1LL << 20};
         entry(j, 0)["count"] = 1LL << 60;
       }},
      {"more than 2^63",
       [&](auto&, json& j) {
         entry(j, 0)["shape"] = {1LL << 40, 1LL << 40};
       }},
      {"a dimension is -2",
       [&](auto&, json& j) {
         entry(j, 0)["shape"] = {-2, -3};
       }},
      {"offset is 18446744073709551615",
       [&](auto&, json& j) { entry(j, 0)["offset"] = UINT64_MAX; }},
      {"must be 'dense' or 'masked'",
       [&](auto&, json& j) { entry(j, 0)["kind"] = "odd"; }},
      {"group 7 of 1", [&](auto&, json& j) { entry(j, 0)["group"] = 7; }},
      {"both train 'w'", [&](auto&, json& j) { entry(j, 0)["target"] = "w"; }},
      {"must be one of mean, sum, rank_zero, per_rank",
       [](auto&, json& j) { j["buffers"]["ema"] = "median"; }},
      {"4 tensors, its layout speaks of 3",
       [](auto&, json& j) { j["buffers"] = json::object(); }},
      {"32 hexadecimal", [](auto&, json& j) { j["backbone"] = "abc"; }},
  };
  for (const Case& c : cases) {
    write(c.change);
    const std::string what = refusal();
    EXPECT_NE(what.find(c.expected), std::string::npos)
        << c.expected << " / " << what;
    EXPECT_NE(what.find(path_.string()), std::string::npos) << what;
    EXPECT_EQ(what.find('\n'), std::string::npos) << what;
  }
}

TEST_F(DeltaFileTest, AnotherSafetensorsFileIsNoDelta) {
  write_safetensors(path_, {{"x", at::arange(3, at::kFloat)}});
  EXPECT_NE(refusal().find("not a delta"), std::string::npos);
}

}  // namespace
}  // namespace thinwire
