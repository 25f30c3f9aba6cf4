// Folders that HF peft and AdapterHub wrote (tests/golden/make_interop.py):
// what is read from them computes what those libraries compute, and what is
// written is what they wrote.
#include "peft/interop/adapter_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/temp_folder.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using testing::Tiny;

Json read_json(const std::string& path) {
  return Json::parse(std::ifstream(path));
}

std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Golden {
  explicit Golden(const std::string& name)
      : folder(golden_path("interop/" + name)),
        about(read_json(folder + "/about.json")),
        tiny(about.at("model").get<std::string>()),
        batch(tiny.examples(about.at("rows")[0], about.at("rows")[1])),
        read(read_adapter_folder(folder, *tiny.backbone)) {}

  std::string folder;
  Json about;
  Tiny tiny;
  HfBatch batch;
  AdapterFolder read;
};

class Folder : public ::testing::TestWithParam<const char*> {};

TEST_P(Folder, ComputesWhatItsLibraryComputes) {
  Golden g(GetParam());
  const SafetensorsFile golden(g.folder + "/golden.safetensors");
  g.tiny.adopt(*g.read.method, g.read.delta);
  at::Tensor logits = g.tiny.logits(g.batch.input);
  if (g.tiny.classifier < 0) {
    logits = (g.tiny.backbone->config().decoder_only ? g.batch.encoder
                                                     : g.batch.decoder)
                 .pad(logits);
  }
  EXPECT_TRUE(golden_close("logits", logits, golden.tensor("logits")));
  g.tiny.loss(g.batch.input).backward();
  std::size_t found = 1;
  for (const auto& [file, tensors] :
       pack(g.read.disk, g.read.delta, g.read.delta.grads())) {
    for (const auto& [name, grad] : tensors) {
      if (!golden.contains("grad." + name)) {
        // Of what peft folds into one tensor it has no gradient.
        EXPECT_THAT(GetParam(), HasSubstr("projected"));
        continue;
      }
      EXPECT_TRUE(golden_close(name, grad, golden.tensor("grad." + name)));
      ++found;
    }
  }
  EXPECT_EQ(found, golden.names().size());
}

// Keys, and values unless they say the same thing in another way: peft names
// every head there could be, modules as the user did, and how a prefix came to
// be.
void expect_same_config(const Json& ours, const Json& theirs,
                        const std::string& where = "") {
  const std::set<std::string> kOwnWords = {
      "modules_to_save", "target_modules",      "feedforward_modules",
      "model_class",     "encoder_hidden_size", "prefix_projection"};
  std::set<std::string> keys, expected;
  for (const auto& item : ours.items()) keys.insert(item.key());
  for (const auto& item : theirs.items()) expected.insert(item.key());
  EXPECT_EQ(keys, expected) << where;
  for (const auto& [key, value] : theirs.items()) {
    if (kOwnWords.contains(key) || !ours.contains(key)) continue;
    if (value.is_object() && key == "config") {
      expect_same_config(ours[key], value, key);
    } else {
      EXPECT_EQ(ours[key].dump(), value.dump()) << where << " " << key;
    }
  }
}

TEST_P(Folder, IsWrittenAsItsLibraryWroteIt) {
  Golden g(GetParam());
  const TempFolder temp;
  const bool hub = fs::exists(g.folder + "/adapter.safetensors");
  write_adapter_folder(temp / "out", g.read.delta, *g.tiny.backbone,
                       {.library = hub ? "adapterhub" : "peft",
                        .model_path = "MODEL",
                        .name = "mine"});
  for (const auto& item : fs::directory_iterator(g.folder)) {
    const std::string file = item.path().filename();
    const std::string ours = temp / ("out/" + file);
    if (file == "about.json" || file == "golden.safetensors") continue;
    ASSERT_TRUE(fs::exists(ours)) << file;
    if (file.ends_with(".json")) {
      expect_same_config(read_json(ours), read_json(item.path()), file);
    } else if (file == "adapter_model.safetensors" &&
               std::string(GetParam()) != "peft_prompt_t5") {
      EXPECT_EQ(read_bytes(ours), read_bytes(item.path())) << file;
    }
  }
  // Names of another of the library's classes are read, not written; of T5's
  // prompt the half that nothing reads is not kept.
  const AdapterFolder again =
      read_adapter_folder(temp / "out", *g.tiny.backbone);
  EXPECT_EQ(again.delta.hash(), g.read.delta.hash());
  EXPECT_TRUE(again.delta.values().equal(g.read.delta.values()));
  EXPECT_EQ(fs::exists(temp / "out.tmp"), false);
}

INSTANTIATE_TEST_SUITE_P(
    Interop, Folder,
    ::testing::Values("peft_lora_bert", "peft_lora_t5", "peft_ia3_bert",
                      "peft_ia3_t5", "peft_lora_gpt2", "peft_ia3_gpt2",
                      "peft_prompt_gpt2", "peft_prefix_gpt2",
                      "peft_prompt_bert", "peft_prompt_t5", "peft_prefix_bert",
                      "peft_prefix_projected_bert", "hub_houlsby_bert",
                      "hub_houlsby_t5", "hub_pfeiffer_bert", "hub_pfeiffer_t5",
                      "hub_parallel_bert", "hub_parallel_t5",
                      "hub_compacter_bert", "hub_compacter_t5",
                      "hub_compacter_plus_bert"),
    [](const auto& info) { return std::string(info.param); });

// A copy of a golden folder in which something can be made wrong.
class Damaged : public ::testing::Test {
 protected:
  void copy(const std::string& name) {
    fs::remove_all(temp_ / "folder");
    fs::copy(golden_path("interop/" + name), temp_ / "folder");
    fs::remove(temp_ / "folder/golden.safetensors");
    model_ = read_json(temp_ / "folder/about.json").at("model");
  }
  void set(const std::string& key, const Json& value) {
    const std::string path = temp_ / "folder/adapter_config.json";
    Json json = read_json(path);
    const auto dot = key.find('.');
    (dot == std::string::npos ? json[key]
                              : json["config"][key.substr(dot + 1)]) = value;
    std::ofstream(path) << json;
  }
  void change(const std::string& file,
              const std::function<void(NamedTensors&)>& how) {
    const std::string path = temp_ / ("folder/" + file);
    NamedTensors tensors;
    {
      const SafetensorsFile old(path);
      for (const std::string& name : old.names()) {
        tensors.emplace_back(name, old.tensor(name).clone());
      }
    }
    how(tensors);
    write_safetensors(path, tensors);
  }
  std::string error() {
    Tiny tiny(model_);
    try {
      read_adapter_folder(temp_ / "folder", *tiny.backbone);
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos);
      return e.what();
    }
    return "nothing is wrong";
  }

  TempFolder temp_;
  std::string model_;
};

TEST_F(Damaged, UnreadFieldsAreNamed) {
  const std::tuple<const char*, const char*, Json> kCases[] = {
      {"peft_lora_bert", "use_dora", true},
      {"peft_lora_bert", "bias", "all"},
      {"peft_lora_bert", "layers_to_transform", {0}},
      {"peft_lora_bert", "something_new", "on"},
      {"peft_lora_bert", "peft_type", "LOHA"},
      {"peft_ia3_bert", "exclude_modules", "key"},
      {"peft_prompt_bert", "token_dim", 768},
      {"peft_prefix_bert", "num_layers", 12},
      {"hub_pfeiffer_bert", "config.use_gating", true},
      {"hub_pfeiffer_bert", "config.ln_after", true},
      {"hub_pfeiffer_bert", "config.scaling", "channel"},
      {"hub_pfeiffer_bert", "config.output_adapter", false},
      {"hub_pfeiffer_bert", "config.inv_adapter", "nice"},
      {"hub_pfeiffer_bert", "config.leave_out", {1}},
      {"hub_pfeiffer_bert", "config.reduction_factor", {{"default", 2}}},
      {"hub_pfeiffer_bert", "config.architecture", "lora"},
      {"hub_pfeiffer_bert", "model_type", "gpt2"},
      {"hub_pfeiffer_bert", "hidden_size", 768}};
  for (const auto& [name, key, value] : kCases) {
    copy(name);
    set(key, value);
    const std::string what = error();
    EXPECT_THAT(what, HasSubstr("adapter_config.json: ")) << key;
    EXPECT_THAT(
        what,
        HasSubstr(std::string(key).substr(std::string(key).find('.') + 1)));
    EXPECT_THAT(what, HasSubstr(value.is_string() ? value.get<std::string>()
                                                  : value.dump()));
  }
}

TEST_F(Damaged, MissingAndUnknownTensorsAreNamed) {
  const std::pair<const char*, const char*> kCases[] = {
      {"peft_lora_bert", "adapter_model.safetensors"},
      {"peft_prefix_bert", "adapter_model.safetensors"},
      {"hub_compacter_bert", "adapter.safetensors"},
      {"hub_compacter_bert", "model_head.safetensors"}};
  for (const auto& [name, file] : kCases) {
    std::string gone;
    copy(name);
    change(file, [&](NamedTensors& t) {
      gone = t.front().first;
      t.erase(t.begin());
    });
    EXPECT_THAT(error(), HasSubstr(std::string(file) + ": tensor '" + gone +
                                   "' is missing"));
    copy(name);
    change(file, [&](NamedTensors& t) {
      t.emplace_back(t.front().first + "x", t.front().second);
    });
    EXPECT_THAT(error(), HasSubstr("tensor '" + gone + "x' has no place"));
  }
}

TEST_F(Damaged, WrongShapesTypesAndNumbersAreNamed) {
  const std::string file = "adapter_model.safetensors";
  copy("peft_lora_bert");
  set("r", 5);
  EXPECT_THAT(error(), HasSubstr("has shape [3, 24]"));
  EXPECT_THAT(error(), HasSubstr("ask for [5, 24]"));
  copy("peft_lora_bert");
  change(file, [](NamedTensors& t) { t[0].second = t[0].second.to(at::kInt); });
  EXPECT_THAT(error(), HasSubstr("must be of a floating type"));
  copy("peft_lora_bert");
  change(file, [](NamedTensors& t) { t[0].second.fill_(NAN); });
  EXPECT_THAT(error(), HasSubstr("not finite"));
}

TEST_F(Damaged, AFolderForAnotherBackboneIsRefused) {
  copy("peft_lora_bert");
  model_ = "t5_tied";
  EXPECT_THAT(error(), HasSubstr("names no linear layer of this t5"));
  copy("peft_prefix_bert");
  model_ = "t5_tied";
  EXPECT_THAT(error(), HasSubstr("decoder layers i and i + L/2 share one"));
}

TEST_F(Damaged, PicklesAreRefusedWithTheWayOut) {
  copy("hub_pfeiffer_bert");
  fs::rename(temp_ / "folder/adapter.safetensors",
             temp_ / "folder/pytorch_adapter.bin");
  EXPECT_THAT(error(), HasSubstr("use_safetensors=True"));
  copy("peft_lora_bert");
  fs::rename(temp_ / "folder/adapter_model.safetensors",
             temp_ / "folder/adapter_model.bin");
  EXPECT_THAT(error(), HasSubstr("pickle"));
}

TEST_F(Damaged, HalfPrecisionIsRead) {
  copy("peft_lora_bert");
  change("adapter_model.safetensors", [](NamedTensors& t) {
    for (auto& [name, tensor] : t) tensor = tensor.to(at::kBFloat16);
  });
  EXPECT_EQ(error(), "nothing is wrong");
}

class Written : public ::testing::Test {
 protected:
  std::string error(const char* method, const Config& config,
                    const std::string& model, const std::string& library = "") {
    Tiny tiny(model);
    const auto made = make_method(method, config);
    const Delta delta = testing::declare(*made, *tiny.backbone);
    try {
      write_adapter_folder(temp_ / "out", delta, *tiny.backbone,
                           {.library = library});
    } catch (const UsageError& e) {
      EXPECT_FALSE(fs::exists(temp_ / "out.tmp"));
      EXPECT_FALSE(fs::exists(temp_ / "out"));
      return e.what();
    }
    return "nothing is wrong";
  }
  TempFolder temp_;
};

TEST_F(Written, WhatAFormatCannotSayIsRefused) {
  const char* bert = "bert_classify";
  EXPECT_THAT(error("houlsby", {{"bottleneck", 4}}, bert),
              HasSubstr("layer_norms: false"));
  EXPECT_THAT(
      error("prompt_tuning", {{"length", 2}, {"init", "uniform"}}, bert),
      HasSubstr("front: true"));
  EXPECT_THAT(error("prefix_tuning", {{"length", 2}}, bert),
              HasSubstr("shift_positions: true"));
  EXPECT_THAT(error("prefix_tuning", {{"length", 2}}, "t5_tied"),
              HasSubstr("the encoder gets none"));
  EXPECT_THAT(error("bitfit", Config::object(), bert),
              HasSubstr("neither HF peft nor AdapterHub"));
  EXPECT_THAT(error("lora", Config::object(), bert, "adapterhub"),
              HasSubstr("choose peft"));
}

// A perceptron's prefix computes the same once it is written as its output.
TEST_F(Written, AComputedPrefixIsFolded) {
  Tiny tiny("bert_classify");
  const auto method = make_method(
      "prefix_tuning",
      {{"length", 2}, {"bottleneck", 6}, {"shift_positions", true}});
  const Delta delta = testing::declare(*method, *tiny.backbone);
  tiny.adopt(*method, delta);
  const at::Tensor before = tiny.logits().detach();
  write_adapter_folder(temp_ / "out", delta, *tiny.backbone, {});
  const AdapterFolder read = read_adapter_folder(temp_ / "out", *tiny.backbone);
  tiny.adopt(*read.method, read.delta);
  EXPECT_TRUE(golden_close("logits", tiny.logits(), before));
}

// Bottlenecks of any width come back with theirs.
TEST_F(Written, EveryWidthSurvivesAReductionFactor) {
  Tiny tiny("bert_classify");
  for (std::int64_t m = 1; m <= 24; ++m) {
    const auto method = make_method("pfeiffer", {{"bottleneck", m}});
    const Delta delta = testing::declare(*method, *tiny.backbone);
    const std::string path = temp_ / std::to_string(m);
    write_adapter_folder(path, delta, *tiny.backbone, {});
    const AdapterFolder read = read_adapter_folder(path, *tiny.backbone);
    EXPECT_EQ(read.delta.hash(), delta.hash()) << m;
  }
}

}  // namespace
}  // namespace thinwire
