#include "base/hash.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/temp_folder.h"

namespace thinwire {
namespace {

std::span<const std::byte> as_span(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Digest, RoundTripsThroughHex) {
  const Digest d = hash128(as_span("thin wire"));
  EXPECT_EQ(d.hex().size(), 32u);
  EXPECT_EQ(Digest::from_hex(d.hex()), d);
  EXPECT_EQ((Digest{0x1, 0xab}).hex(), "00000000000000ab0000000000000001");
}

TEST(Digest, RefusesWhatIsNotHex) {
  for (const char* bad : {"", "12", "00000000000000ab000000000000000g",
                          "00000000000000ab00000000000000011"}) {
    EXPECT_THROW(Digest::from_hex(bad), UsageError) << bad;
  }
}

// XXH3's published value for the empty input, seed 0.
TEST(Hash, EmptyInput) {
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2ull);
  EXPECT_EQ(hash128({}).hex(), "99aa06d3014798d86001c324468d497f");
}

TEST(Hasher, EqualsTheOneShotHashOverAnySplit) {
  std::string text(10000, 'x');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = char('a' + i % 23);
  for (const std::size_t cut : {0ul, 1ul, 255ul, 4096ul, text.size()}) {
    Hasher h;
    h.bytes(as_span(text.substr(0, cut))).bytes(as_span(text.substr(cut)));
    EXPECT_EQ(h.digest(), hash128(as_span(text)));
  }
}

TEST(Hasher, FramesStrings) {
  EXPECT_NE(Hasher().string("ab").string("c").digest(),
            Hasher().string("a").string("bc").digest());
  EXPECT_NE(Hasher().number(std::int64_t{1}).digest(),
            Hasher().number(1.0).digest());
}

TEST(HashFile, EqualsTheHashOfItsBytes) {
  const TempFolder folder;
  const std::string path = folder / "hashed.bin";
  const std::string text((1 << 20) + 17, 'q');  // more than one block
  std::ofstream(path, std::ios::binary) << text;
  EXPECT_EQ(hash_file(path), hash128(as_span(text)));
  std::filesystem::remove(path);
  EXPECT_THROW(hash_file(path), IoError);
}

}  // namespace
}  // namespace thinwire
