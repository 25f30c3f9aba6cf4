#include "data/decode.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "data/shard_folder.h"
#include "data/testing.h"

namespace thinwire {
namespace {

using ::thinwire::testing::FolderCopy;
using ::thinwire::testing::golden;
using ::thinwire::testing::read_bytes;
using ::thinwire::testing::write_bytes;

using Ids = std::vector<std::int32_t>;

// The tokenizers library's own decoding is in the golden file.
TEST(TextDecoder, EqualsTheTokenizersLibrary) {
  const auto expected =
      nlohmann::json::parse(read_bytes(golden("shards_expected.json")));
  const TextDecoder wordpiece(golden("shards_classify/vocab.json"));
  for (const auto& e : expected["classify"]) {
    EXPECT_EQ(wordpiece.text(e["input"].get<Ids>()),
              e["decoded"].get<std::string>());
  }
  const TextDecoder metaspace(golden("shards_text/vocab.json"));
  for (const auto& e : expected["text"]) {
    EXPECT_EQ(metaspace.text(e["input"].get<Ids>()),
              e["decoded"].get<std::string>());
    EXPECT_EQ(metaspace.text(e["target"].get<Ids>()),
              e["reference"].get<std::string>());
  }
}

TEST(TextDecoder, GivesBackEveryReference) {
  const auto folder = open_shard_folder(golden("shards_text"));
  const TextDecoder decoder(golden("shards_text/vocab.json"));
  const auto samples = folder->read(0, 200);
  const auto references = folder->references(0, 200);
  for (std::size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(decoder.text(samples[i].target), references[i].at(0));
  }
}

std::string decode(const std::string& table, const Ids& ids) {
  const FolderCopy copy("shards_text");  // for its folder, removed at the end
  write_bytes(copy.path() + "/table.json", table);
  return TextDecoder(copy.path() + "/table.json").text(ids);
}

TEST(TextDecoder, BytesOfByteLevelTokens) {
  const std::string table =
      R"({"version": 1, "decoder": "byte_level", "special": [3],
          "tokens": ["Ġcaf", "Ã", "©", "<|end|>", "Ċ", "¡", "Ń"]})";
  EXPECT_EQ(decode(table, {0, 1, 2, 4, 3, 99, -1}), " caf\u00e9\n");
  EXPECT_EQ(decode(table, {5, 6}), "\xA1\xAD");
}

TEST(TextDecoder, PunctuationOfWordpiece) {
  const std::string table =
      R"({"version": 1, "decoder": "wordpiece", "special": [0],
          "tokens": ["[CLS]", "it", "##s", ",", "'s", "'", "##"]})";
  EXPECT_EQ(decode(table, {0, 2, 1, 3, 1, 4, 5, 2, 1, 2}),
            "##s it, it's 's its");
  EXPECT_EQ(decode(table, {}), "");
}

TEST(TextDecoder, RefusesOtherTables) {
  EXPECT_THROW(decode("{", {}), IoError);
  EXPECT_THROW(decode("[]", {}), IoError);
  EXPECT_THROW(decode(R"({"version": 2})", {}), UsageError);
  EXPECT_THROW(
      decode(R"({"version": 1, "decoder": "x", "tokens": [], "special": []})",
             {}),
      UsageError);
  EXPECT_THROW(decode(R"({"version": 1, "decoder": "plain", "tokens": [],
                          "special": [0]})",
                      {}),
               UsageError);
  EXPECT_THROW(TextDecoder("/nonexistent/vocab.json"), IoError);
}

}  // namespace
}  // namespace thinwire
