#include "data/shard_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/describe.h"
#include "data/testing.h"

namespace thinwire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::thinwire::testing::FolderCopy;
using ::thinwire::testing::golden;
using ::thinwire::testing::read_bytes;
using ::thinwire::testing::same;
using ::thinwire::testing::write_bytes;

using Ints = std::vector<std::int32_t>;

TEST(ShardFolder, HoldsWhatTheTokenizerGave) {
  const auto expected =
      nlohmann::json::parse(read_bytes(golden("shards_expected.json")));
  const auto pairs = open_shard_folder(golden("shards_classify"));
  const std::int64_t stride = expected["stride"];
  std::int64_t at = 0;
  for (const auto& e : expected["classify"]) {
    const Sample s = pairs->read(at, 1).at(0);
    EXPECT_EQ(s.id, static_cast<std::uint64_t>(at));
    EXPECT_EQ(s.task, 5);
    EXPECT_EQ(s.input, e["input"].get<Ints>()) << at;
    EXPECT_EQ(s.types, e["types"].get<Ints>()) << at;
    EXPECT_EQ(s.label, e["label"].get<double>()) << at;
    EXPECT_TRUE(s.target.empty());
    at += stride;
  }
  EXPECT_GT(at, 2400);

  const auto text = open_shard_folder(golden("shards_text"));
  at = 0;
  for (const auto& e : expected["text"]) {
    const Sample s = text->read(at, 1).at(0);
    EXPECT_EQ(s.input, e["input"].get<Ints>()) << at;
    EXPECT_EQ(s.target, e["target"].get<Ints>()) << at;
    EXPECT_TRUE(s.types.empty());
    EXPECT_EQ(text->references(at, 1).at(0),
              std::vector{e["reference"].get<std::string>()});
    at += stride;
  }
  EXPECT_GT(at, 100);
}

TEST(ShardFolder, ChoicesLieEndToEnd) {
  const auto answers =
      nlohmann::json::parse(read_bytes(golden("shards_expected.json")))
          .at("choose");
  const auto folder = open_shard_folder(golden("shards_choose"));
  EXPECT_EQ(folder->index().labels, 4);
  EXPECT_NO_THROW(folder->verify());
  const auto samples = folder->read(0, 20);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Sample& s = samples[i];
    EXPECT_EQ(s.label, static_cast<double>(i % 4));
    ASSERT_EQ(s.choices.size(), answers.size());
    auto at = s.target.begin();
    for (std::size_t n = 0; n < answers.size(); ++n) {
      const Ints choice(at, at + s.choices[n]);
      EXPECT_EQ(choice, answers[n].get<Ints>());
      at += s.choices[n];
    }
    EXPECT_TRUE(at == s.target.end());
  }
}

TEST(ShardFolder, SeveralReferences) {
  const auto expected =
      nlohmann::json::parse(read_bytes(golden("shards_expected.json")))
          .at("references")
          .get<ShardFolder::References>();
  const auto folder = open_shard_folder(golden("shards_references"));
  ASSERT_EQ(folder->index().samples, 30);
  EXPECT_EQ(folder->references(0, 30), expected);
  std::size_t longest = 0;
  for (std::int64_t i = 0; i < 30; ++i) {
    const auto& want = expected[static_cast<std::size_t>(i)];
    EXPECT_EQ(folder->references(i, 1).at(0), want);
    longest = std::max(longest, want.size());
  }
  EXPECT_EQ(longest, 4u);
  EXPECT_NO_THROW(folder->verify());
}

TEST(ShardFolder, IndexSaysWhatThereIs) {
  const auto folder = open_shard_folder(golden("shards_classify"));
  const ShardIndex& i = folder->index();
  EXPECT_EQ(i.task_kind, "classify");
  EXPECT_EQ(i.samples, 2500);
  EXPECT_EQ(i.labels, 3);
  EXPECT_EQ(i.label_names, (std::vector<std::string>{"bird", "fish", "moss"}));
  EXPECT_EQ(i.max_input, 20);
  EXPECT_EQ(i.max_target, 0);
  EXPECT_EQ(i.pad_id, 0);
  EXPECT_EQ(i.eos_id, -1);
  EXPECT_EQ(i.cls_id, 2);
  EXPECT_EQ(i.tokenizer_sha256.size(), 64u);
  EXPECT_EQ(static_cast<std::int64_t>(folder->vocabulary().size()),
            i.vocab_size);
  EXPECT_EQ(folder->vocabulary().at(2), "[CLS]");
  EXPECT_TRUE(folder->references(0, 3).empty());
  EXPECT_NO_THROW(folder->verify());
}

// The same bytes through the HDF5 library, all of them.
template <class T>
std::vector<T> through_hdf5(const std::string& path, const char* name,
                            hid_t type) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  const hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
  const hid_t space = H5Dget_space(set);
  std::vector<T> out(
      static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)));
  EXPECT_GE(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data()), 0);
  H5Sclose(space);
  H5Dclose(set);
  H5Fclose(file);
  return out;
}

TEST(ShardFolder, EqualsTheHdf5LibraryEverywhere) {
  const std::string path = golden("shards_classify");
  const auto folder = open_shard_folder(path);
  const auto all = folder->read(0, folder->index().samples);
  const auto& lengths = folder->lengths();
  std::size_t at = 0;
  for (int shard = 0; shard < 3; ++shard) {
    const std::string file =
        path + "/shard-0000" + std::to_string(shard) + ".h5";
    const auto tokens =
        through_hdf5<std::int32_t>(file, "input/values", H5T_NATIVE_INT32);
    const auto types =
        through_hdf5<std::uint8_t>(file, "types/values", H5T_NATIVE_UINT8);
    const auto offsets =
        through_hdf5<std::int64_t>(file, "input/offsets", H5T_NATIVE_INT64);
    const auto labels =
        through_hdf5<std::int64_t>(file, "label", H5T_NATIVE_INT64);
    for (std::size_t i = 0; i < labels.size(); ++i, ++at) {
      const Ints want(tokens.begin() + offsets[i],
                      tokens.begin() + offsets[i + 1]);
      ASSERT_EQ(all[at].input, want) << at;
      ASSERT_EQ(all[at].types, Ints(types.begin() + offsets[i],
                                    types.begin() + offsets[i + 1]));
      ASSERT_EQ(all[at].label, static_cast<double>(labels[i])) << at;
      ASSERT_EQ(lengths[at], static_cast<std::int32_t>(want.size()));
    }
  }
  EXPECT_EQ(at, all.size());
}

TEST(ShardFolder, GathersAcrossShards) {
  const auto folder = open_shard_folder(golden("shards_classify"));
  const std::vector<std::int64_t> some = {0, 1, 700, 1099, 1100, 2199, 2499};
  const auto got = folder->gather(some);
  for (std::size_t k = 0; k < some.size(); ++k) {
    EXPECT_TRUE(same(got[k], folder->read(some[k], 1)[0])) << some[k];
  }
  EXPECT_EQ(folder->lengths(1090, 20), Ints(folder->lengths().begin() + 1090,
                                            folder->lengths().begin() + 1110));
  EXPECT_TRUE(folder->read(2500, 0).empty());
  EXPECT_THROW(folder->read(2400, 101), UsageError);
  EXPECT_THROW(folder->read(-1, 1), UsageError);
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(ShardFolder, RefusesWhatIsNotAFolderOfShards) {
  EXPECT_THROW(open_shard_folder("/nonexistent/shards"), UsageError);
  EXPECT_THROW(open_shard_folder(golden("")), UsageError);
}

struct Edit {
  const char* what;
  std::function<void(nlohmann::json&)> edit;
  const char* expect;
};

TEST(ShardFolder, RefusesAnIndexThatLies) {
  using json = nlohmann::json;
  const std::vector<Edit> edits = {
      {"version", [](json& j) { j["version"] = 2; }, "version 2"},
      {"format", [](json& j) { j["format"] = "other"; }, "thinwire-shards"},
      {"no samples key", [](json& j) { j.erase("samples"); }, "'samples'"},
      {"text", [](json& j) { j["samples"] = "many"; }, "'samples'"},
      {"negative", [](json& j) { j["samples"] = -1; }, "'samples'"},
      {"huge", [](json& j) { j["samples"] = 18446744073709551615u; },
       "'samples'"},
      {"sum", [](json& j) { j["samples"] = 2501; }, "add up"},
      {"huge shard", [](json& j) { j["shards"][0]["samples"] = 1ll << 47; },
       "add up"},
      {"swapped counts",
       [](json& j) {
         j["shards"][0]["samples"] = 1099;
         j["shards"][1]["samples"] = 1101;
       },
       "samples is 1100"},
      {"bytes", [](json& j) { j["shards"][1]["bytes"] = 5; }, "cut off"},
      {"way out", [](json& j) { j["shards"][0]["file"] = "../x.h5"; },
       "plain file name"},
      {"gone", [](json& j) { j["shards"][0]["file"] = "x.h5"; }, "cannot open"},
      {"digest", [](json& j) { j["shards"][0]["xxh3_128"] = "12"; }, "digest"},
      {"labels", [](json& j) { j["labels"] = 4; }, "label_names"},
      {"tokenizer", [](json& j) { j["tokenizer_sha256"] = "0"; },
       "tokenizer_sha256"},
      {"end", [](json& j) { j["eos_id"] = 7; }, "eos_id"},
      {"task", [](json& j) { j["task"] = "regress"; }, "task_kind"},
      {"vocab", [](json& j) { j["vocab_size"] = 1 << 20; }, "vocab_size"},
      {"shard kind",
       [](json& j) {
         j["shards"] = json::array({1, 2});
       },
       "not an object"},
  };
  for (const Edit& e : edits) {
    const FolderCopy copy("shards_classify");
    copy.edit_index(e.edit);
    EXPECT_THAT(error_of([&] { open_shard_folder(copy.path()); }),
                AllOf(HasSubstr(copy.path()), HasSubstr(e.expect)))
        << e.what;
  }
  const FolderCopy copy("shards_classify");
  write_bytes(copy.path() + "/index.json", "{\"format\": \"thinwire-sha");
  EXPECT_THROW(open_shard_folder(copy.path()), IoError);
}

TEST(ShardFolder, RefusesTokensAndLabelsBeyondTheIndex) {
  const FolderCopy longer("shards_classify");
  longer.edit_index([](nlohmann::json& j) { j["max_input"] = 4; });
  const auto a = open_shard_folder(longer.path());
  EXPECT_THAT(error_of([&] { a->read(0, 2500); }), HasSubstr("tokens"));

  const FolderCopy fewer("shards_classify");
  fewer.edit_index([](nlohmann::json& j) {
    j["labels"] = 2;
    j["label_names"] = {"bird", "fish"};
  });
  const auto b = open_shard_folder(fewer.path());
  EXPECT_THAT(error_of([&] { b->read(0, 2500); }), HasSubstr("class 2 of 2"));
}

TEST(ShardFolder, VerifyFindsAnotherFileOfTheSameSize) {
  const FolderCopy copy("shards_classify");
  const auto folder = open_shard_folder(copy.path());
  std::string bytes = read_bytes(copy.shard(1));
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_bytes(copy.shard(1), bytes);
  EXPECT_THAT(error_of([&] { folder->verify(); }), HasSubstr("shard-00001.h5"));
}

TEST(Describe, CountsSamplesLengthsAndLabels) {
  const auto folder = open_shard_folder(golden("shards_classify"));
  const std::string text = describe(*folder);
  EXPECT_THAT(text, AllOf(HasSubstr("classify"), HasSubstr("2500"),
                          HasSubstr("bird"), HasSubstr("median")));
  const auto labels = folder->read(0, 2500);
  std::int64_t moss = 0;
  for (const Sample& s : labels) moss += s.label == 2;
  EXPECT_THAT(text, HasSubstr(std::to_string(moss)));
}

}  // namespace
}  // namespace thinwire
