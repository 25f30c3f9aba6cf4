#include "comm/algorithm.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace thinwire {
namespace {

TEST(Algorithm, NamesAndWordsAreOne) {
  for (const char* word :
       {"auto", "doubling", "halving_doubling", "ring", "two_level", "mpi"}) {
    EXPECT_EQ(name_of(parse_algorithm(word)), word);
  }
  for (const char* word : {"fp32", "bf16", "int8"}) {
    EXPECT_EQ(name_of(parse_codec(word)), word);
  }
}

TEST(Algorithm, OtherWordsAreRefusedByName) {
  try {
    parse_codec("fp16");
    FAIL() << "no error";
  } catch (const UsageError& error) {
    EXPECT_STREQ(error.what(),
                 "codec 'fp16' is unknown; choose one of: fp32, bf16, int8");
  }
  EXPECT_THROW(parse_algorithm("tree"), UsageError);
}

}  // namespace
}  // namespace thinwire
