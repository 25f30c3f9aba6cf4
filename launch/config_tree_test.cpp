#include "launch/config_tree.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

class ConfigTree : public testing::Test {
 protected:
  void SetUp() override { std::filesystem::create_directories(folder_); }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& text) {
    const std::string path = folder_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }

  std::string error_of(const std::string& text) {
    try {
      load_config_tree(write("bad.yaml", text));
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      return error.what();
    }
    ADD_FAILURE() << "accepted: " << text;
    return "";
  }

  const std::string folder_ =
      testing::TempDir() + "/config_tree_" + std::to_string(getpid());
};

TEST_F(ConfigTree, KnowsWhereEachValueStands) {
  const ConfigNode root =
      load_config_tree(write("a.yaml", "train:\n  lr: 1e-3\n  steps: '5'\n"));
  const ConfigNode* lr = root.find("train")->find("lr");
  EXPECT_EQ(lr->text, "1e-3");
  EXPECT_FALSE(lr->quoted);
  EXPECT_THAT(lr->where, HasSubstr("a.yaml:2"));
  EXPECT_TRUE(root.find("train")->find("steps")->quoted);
}

TEST_F(ConfigTree, ExtendsMergesMapsAndReplacesLists) {
  write("base.yaml", "train: {lr: 1, steps: 2}\npeft: [{a: 1}, {b: 2}]\n");
  const ConfigNode root = load_config_tree(
      write("over.yaml", "extends: base.yaml\ntrain: {lr: 3}\npeft: [{c: 4}]"));
  EXPECT_EQ(root.find("train")->find("lr")->text, "3");
  EXPECT_EQ(root.find("train")->find("steps")->text, "2");
  EXPECT_EQ(root.find("peft")->children.size(), 1u);
  EXPECT_EQ(root.find("extends"), nullptr);
}

TEST_F(ConfigTree, SubstitutesTheEnvironment) {
  setenv("THINWIRE_TEST_NAME", "x y", 1);
  const ConfigNode root = load_config_tree(
      write("a.yaml", "output: /a/${env:THINWIRE_TEST_NAME}/b\n"));
  EXPECT_EQ(root.find("output")->text, "/a/x y/b");
  EXPECT_THAT(error_of("a: ${env:THINWIRE_TEST_UNSET}"), HasSubstr("not set"));
  EXPECT_THAT(error_of("a: '${env:X'"), HasSubstr("closing brace"));
}

TEST_F(ConfigTree, RefusesWhatIsNoConfig) {
  EXPECT_THAT(error_of("a: 1\nb: {c: 2\n"), HasSubstr("bad.yaml:"));
  EXPECT_THAT(error_of("a: 1\na: 2\n"), HasSubstr("'a' stands twice"));
  EXPECT_THAT(error_of("a: {b: 1, b: 2}"), HasSubstr("stands twice"));
  EXPECT_THAT(error_of("just words"), HasSubstr("map of sections"));
  EXPECT_THAT(error_of(""), HasSubstr("map of sections"));
  EXPECT_THAT(error_of("a: 1\n---\nb: 2\n"), HasSubstr("documents"));
  EXPECT_THAT(error_of("x: &x {a: 1}\ny: {<<: *x}\n"), HasSubstr("extends"));
  EXPECT_THAT(error_of("extends: bad.yaml\n"), HasSubstr("circle"));
  EXPECT_THAT(error_of("extends: none.yaml\n"), HasSubstr("none.yaml"));
  EXPECT_THAT(error_of("? [a]\n: 1\n"), HasSubstr("plain word"));
}

TEST_F(ConfigTree, AliasesOfAliasesDoNotGrowWithoutBound) {
  std::string text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    const std::string last = "*a" + std::to_string(i - 1);
    text += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [" + last;
    for (int j = 0; j < 9; ++j) text += ", " + last;
    text += "]\n";
  }
  EXPECT_THAT(error_of(text), HasSubstr("too many values"));
}

TEST_F(ConfigTree, DeepNestingIsRefused) {
  EXPECT_THAT(error_of("a: " + std::string(5000, '[')), HasSubstr("bad.yaml"));
}

TEST_F(ConfigTree, Overrides) {
  ConfigNode root = load_config_tree(
      write("a.yaml", "train: {lr: 1}\npeft: [{method: lora, r: 8}]\n"));
  apply_override(root, "train.lr=2e-3");
  apply_override(root, "comm.backend=self");
  apply_override(root, "peft.0.r=4");
  apply_override(root, "peft.1={method: head}");
  apply_override(root, "peft.0.target_modules=[query, value]");
  EXPECT_EQ(root.find("train")->find("lr")->text, "2e-3");
  EXPECT_EQ(root.find("train")->find("lr")->where, "command line");
  EXPECT_EQ(root.find("comm")->find("backend")->text, "self");
  const ConfigNode* peft = root.find("peft");
  ASSERT_EQ(peft->children.size(), 2u);
  EXPECT_EQ(peft->children[0].find("r")->text, "4");
  EXPECT_EQ(peft->children[0].find("target_modules")->children.size(), 2u);
  EXPECT_EQ(peft->children[1].find("method")->text, "head");
  for (const char* bad : {"train.lr", "=3", "peft.5.r=1", "peft.x=1",
                          "train.lr.x=1", "train..lr=1"}) {
    EXPECT_THROW(apply_override(root, bad), UsageError) << bad;
  }
}

}  // namespace
}  // namespace thinwire
