#include "base/unicode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace thinwire {
namespace {

using testing::ElementsAre;

TEST(Unicode, CodePointsAndBack) {
  const std::string text = "aé€𝄞";
  EXPECT_THAT(code_points(text), ElementsAre(0x61, 0xE9, 0x20AC, 0x1D11E));
  std::string back;
  for (const std::uint32_t c : code_points(text)) append_utf8(back, c);
  EXPECT_EQ(back, text);
  EXPECT_THAT(code_points("\x80z\xE2\x82"),
              ElementsAre(0xFFFD, 'z', 0xFFFD, 0xFFFD));
}

TEST(Unicode, LowerCase) {
  EXPECT_EQ(lower_case("AbZ 09_"), "abz 09_");
  EXPECT_EQ(lower_case("ÀÞß×ŸĂă"), "àþß×ÿăă");
  EXPECT_EQ(lower_case("ЖЁ ԱՖ Ⴀ 𐐀"), "жё աֆ ⴀ 𐐨");
  EXPECT_EQ(lower_case("\u212A\u212B\u0130"), "kåi\u0307");
  EXPECT_EQ(lower_case("ΟΔΟΣ ΣΑΣ. Σ"), "οδος σας. σ");
  EXPECT_EQ(lower_case("5Σ aΣ' aΣ'b Α\u0301Σ中 'Σ"),
            "5σ aς' aσ'b α\u0301ς中 'σ");
}

TEST(Unicode, WordsAndSpaces) {
  for (const std::uint32_t c :
       {0x61, 0x5A, 0x30, 0x5F, 0xE9, 0x4E2D, 0x661, 0xB2, 0x2460, 0x1D7CE}) {
    EXPECT_TRUE(is_word(c)) << c;
  }
  for (const std::uint32_t c :
       {0x20, 0x2D, 0x27, 0xA0, 0x2019, 0x301, 0x1F44D}) {
    EXPECT_FALSE(is_word(c)) << c;
  }
  EXPECT_THAT(split_words(" a\tb\u00A0c\u3000d\u2009e\x1C\x85 f\u200Bg "),
              ElementsAre("a", "b", "c", "d", "e", "\uFFFD", "f\u200Bg"));
  EXPECT_THAT(split_words("  "), ElementsAre());
}

}  // namespace
}  // namespace thinwire
