#include "base/isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "base/clones.h"
#include "base/error.h"

namespace thinwire {
namespace {

TEST(Isa, TheBestUnlessLowered) {
  EXPECT_EQ(choose_isa("", Isa::kAvx2), Isa::kAvx2);
  EXPECT_EQ(choose_isa("avx2", Isa::kAvx512), Isa::kAvx2);
  EXPECT_EQ(choose_isa("portable", Isa::kPortable), Isa::kPortable);
}

TEST(Isa, WhatTheProcessorLacksIsRefused) {
  try {
    choose_isa("avx512", Isa::kAvx2);
    FAIL() << "no error";
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), testing::HasSubstr("'avx2' is the best"));
  }
}

TEST(Isa, UnknownWordIsRefused) {
  for (const char* word : {"sse", "AVX2", "avx2 "}) {
    EXPECT_THROW(choose_isa(word, Isa::kAvx512), UsageError) << word;
  }
}

TEST(Isa, TheEnvironmentDecides) {
  const char* wanted = std::getenv("THINWIRE_ISA");
  const bool set = wanted != nullptr && *wanted != 0;
  EXPECT_EQ(name_of(isa()), set ? std::string_view(wanted) : name_of(isa()));
  EXPECT_EQ(choose_isa(set ? wanted : "", isa()), isa());
}

THINWIRE_CLONE_BODY int sum_body(const int* x, int n) {
  int sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}
constexpr Clones<&sum_body> sum;

TEST(Isa, ClonesAgree) {
  int x[100];
  for (int i = 0; i < 100; ++i) x[i] = i * i;
  EXPECT_EQ(sum(x, 100), 328350);
}

}  // namespace
}  // namespace thinwire
