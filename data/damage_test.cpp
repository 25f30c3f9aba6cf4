// Damaged shards: an error that names the file, or the very same samples, but
// never a wrong token, a crash or an endless allocation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/chunked.h"
#include "data/hdf5.h"
#include "data/shard_folder.h"
#include "data/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using ::thinwire::testing::FolderCopy;
using ::thinwire::testing::golden;
using ::thinwire::testing::read_bytes;
using ::thinwire::testing::same;
using ::thinwire::testing::write_bytes;

std::vector<Sample> read_all(const std::string& folder) {
  const auto f = open_shard_folder(folder);
  return f->read(0, f->index().samples);
}

// Empty when the folder reads as `truth`, else the error. Anything else fails.
std::string damage(const std::string& folder,
                   const std::vector<Sample>& truth) {
  try {
    const auto got = read_all(folder);
    EXPECT_EQ(got.size(), truth.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      if (!same(got[i], truth[i])) {
        ADD_FAILURE() << "sample " << i << " changed unnoticed";
        break;
      }
    }
    return "";
  } catch (const IoError& e) {
    return e.what();
  } catch (const UsageError& e) {
    return e.what();
  }
}

TEST(Damage, TruncationIsRefusedAtOpen) {
  const FolderCopy copy("shards_text");
  const std::string whole = read_bytes(copy.shard(0));
  for (std::size_t size = 0; size < whole.size(); size += 131) {
    write_bytes(copy.shard(0), whole.substr(0, size));
    try {
      open_shard_folder(copy.path());
      ADD_FAILURE() << "opened at " << size << " of " << whole.size();
    } catch (const IoError& e) {
      EXPECT_THAT(e.what(), HasSubstr("shard-00000.h5"));
    }
  }
}

TEST(Damage, TruncationThatTheIndexHidesIsFoundAllTheSame) {
  const FolderCopy copy("shards_text");
  const std::string whole = read_bytes(copy.shard(0));
  for (std::size_t size = 1; size < whole.size(); size += 197) {
    write_bytes(copy.shard(0), whole.substr(0, size));
    copy.edit_index([&](nlohmann::json& j) { j["shards"][0]["bytes"] = size; });
    EXPECT_THROW(read_all(copy.path()), IoError) << size;
  }
}

TEST(Damage, TruncationAfterOpeningIsFoundByTheReader) {
  const FolderCopy copy("shards_text");
  const auto folder = open_shard_folder(copy.path());
  write_bytes(copy.shard(1), read_bytes(copy.shard(1)).substr(0, 2100));
  EXPECT_THROW(folder->read(0, 200), IoError);
  EXPECT_NO_THROW(folder->read(0, 90));
}

// Every chunk of every dataset, a flipped bit in each of its bytes.
TEST(Damage, EveryBitFlipInAChunkIsDetected) {
  const FolderCopy copy("shards_text");
  const std::string whole = read_bytes(copy.shard(2));
  const std::string path = copy.shard(2);
  const Hdf5File file(path);
  struct Set {
    const char* name;
    ElementType type;
  };
  const Set sets[] = {{"input/values", ElementType::kInt32},
                      {"input/offsets", ElementType::kInt64},
                      {"target/values", ElementType::kInt32},
                      {"target/offsets", ElementType::kInt64},
                      {"references/values", ElementType::kUint8},
                      {"references/offsets", ElementType::kInt64},
                      {"id", ElementType::kUint64},
                      {"task", ElementType::kInt32}};
  int flips = 0;
  for (const Set& set : sets) {
    const DatasetLayout layout = file.layout(set.name, set.type);
    ASSERT_EQ(layout.filters.size(), 3u) << set.name;
    for (const StoredChunk& c : layout.chunks) {
      for (std::uint64_t i = 0; i < c.size; ++i, ++flips) {
        std::string bytes = whole;
        bytes[c.address + i] =
            static_cast<char>(bytes[c.address + i] ^ (1 << (flips % 8)));
        write_bytes(path, bytes);
        const Descriptor fd = open_file(path);
        ChunkCursor cursor(path, fd.get(), layout);
        EXPECT_THROW(cursor.verify(), IoError) << set.name << " byte " << i;
      }
    }
  }
  EXPECT_GT(flips, 500);
}

// Anywhere in the file, metadata included: noticed, or without effect.
TEST(Damage, NoBitFlipChangesASample) {
  const FolderCopy copy("shards_text");
  const auto truth = read_all(copy.path());
  const std::string whole = read_bytes(copy.shard(2));
  int noticed = 0, tried = 0;
  for (std::size_t at = 0; at < whole.size(); at += 3, ++tried) {
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << (at / 3 % 8)));
    write_bytes(copy.shard(2), bytes);
    noticed += !damage(copy.path(), truth).empty();
  }
  EXPECT_GT(noticed, tried / 4);
}

TEST(Damage, RandomBytesNeverCrash) {
  const FolderCopy copy("shards_text");
  const auto truth = read_all(copy.path());
  const std::string whole = read_bytes(copy.shard(2));
  std::mt19937_64 random(3);
  for (int round = 0; round < 300; ++round) {
    std::string bytes = whole;
    const std::size_t n = 1 + random() % 64;
    const std::size_t at = random() % (bytes.size() - n);
    for (std::size_t i = 0; i < n; ++i) {
      bytes[at + i] = static_cast<char>(random());
    }
    write_bytes(copy.shard(2), bytes);
    damage(copy.path(), truth);
  }
}

TEST(Fletcher32, EqualsPublishedAndEdgeValues) {
  const auto of = [](const std::string& s) {
    return fletcher32(reinterpret_cast<const unsigned char*>(s.data()),
                      s.size());
  };
  EXPECT_EQ(of(""), 0u);
  // Words 0x6162 and 0x6364, summed by hand.
  EXPECT_EQ(of("abcd"), ((0x6162u * 2 + 0x6364u) % 65535) << 16 |
                            (0x6162u + 0x6364u) % 65535);
  EXPECT_EQ(of("a"), 0x6100u << 16 | 0x6100u);
  // A multiple of 65535 that is not zero stays 65535.
  EXPECT_EQ(of(std::string("\xff\xff", 2)), 0xffffffffu);
  EXPECT_EQ(of(std::string(8, '\0')), 0u);
}

TEST(Hdf5File, NamesWhatIsMissing) {
  const Hdf5File file(golden("shards_text") + "/shard-00000.h5");
  EXPECT_TRUE(file.has("input/values"));
  EXPECT_FALSE(file.has("label"));
  EXPECT_FALSE(file.has("nothing/here"));
  EXPECT_THROW(file.layout("label", ElementType::kInt64), IoError);
  EXPECT_THROW(file.layout("id", ElementType::kInt64), UsageError);
  EXPECT_THROW(file.integer_attribute("none"), IoError);
  EXPECT_EQ(file.integer_attribute("thinwire_format"), 1);
  EXPECT_EQ(file.text_attribute("task_kind"), "text_to_text");
  EXPECT_THROW(Hdf5File(golden("make_shards.py")), IoError);
}

}  // namespace
}  // namespace thinwire
