#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "peft/field_values.h"
#include "peft/method.h"

namespace thinwire {
namespace {

using Json = nlohmann::ordered_json;

template <class F>
std::string refusal(const F& f) {
  try {
    f();
  } catch (const UsageError& e) {
    return e.what();
  }
  return "";
}

TEST(Registry, IsSortedAndComplete) {
  std::vector<std::string> ids;
  for (const MethodInfo& info : methods()) {
    ids.emplace_back(info.id);
    EXPECT_EQ(&find_method(info.id), &info);
    EXPECT_EQ(make_method(info.id, Json::object())->id(), info.id);
    EXPECT_FALSE(info.about.empty());
    for (const Field& f : info.fields) EXPECT_FALSE(f.help.empty()) << f.name;
  }
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
}

TEST(Registry, AnUnknownMethodNamesTheNearest) {
  const std::string what = refusal([] { find_method("lroa"); });
  EXPECT_NE(what.find("'lroa' is unknown; choose one of: lora, "),
            std::string::npos)
      << what;
}

TEST(Registry, AnUnknownKeyNamesTheNearest) {
  EXPECT_EQ(refusal([] {
              make_method("lora", {{"aplha", 3}});
            }),
            "lora: key 'aplha' is unknown; nearest: 'alpha'");
}

TEST(Registry, AValueOutOfRangeIsRefused) {
  EXPECT_EQ(refusal([] {
              make_method("lora", {{"r", 0}});
            }),
            "lora: r must be in [1, 65536], got 0");
  EXPECT_EQ(refusal([] {
              make_method("lora", {{"r", 2.5}});
            }),
            "lora: r must be a whole number, got 2.5");
  EXPECT_NE(refusal([] { make_method("lora", {{"dropout", 1}}); }), "");
  EXPECT_NE(refusal([] { make_method("lora", {{"rank_pattern", "q"}}); }), "");
  EXPECT_NE(refusal([] { make_method("lora", Json::array()); }), "");
}

TEST(FieldValues, FillsDefaultsAndTypes) {
  constexpr Field kFields[] = {
      {"flag", FieldType::kBool, "true", "h"},
      {"n", FieldType::kInt, "8", "h"},
      {"x", FieldType::kFloat, "1e-3", "h"},
      {"text", FieldType::kString, "abc", "h"},
      {"list", FieldType::kStrings, "[query, value]", "h"},
      {"numbers", FieldType::kFloats, "[0.5, 2]", "h"},
      {"counts", FieldType::kInts, "[1, 2]", "h"},
      {"unset", FieldType::kStrings, "~", "h"},
      {"must", FieldType::kInt, "!", "h"},
  };
  const Json got =
      complete_fields("m", kFields, {{"method", "m"}, {"must", 3}, {"x", 2}});
  EXPECT_EQ(got.dump(),
            R"({"flag":true,"n":8,"x":2.0,"text":"abc","list":["query",)"
            R"("value"],"numbers":[0.5,2.0],"counts":[1,2],"unset":null,)"
            R"("must":3})");
  EXPECT_EQ(complete_fields("m", kFields, {{"must", 3}, {"list", "q"}})["list"],
            Json({"q"}));
  EXPECT_EQ(refusal([&] { complete_fields("m", kFields, Json::object()); }),
            "m: must is required (h)");
  EXPECT_EQ(refusal([&] {
              complete_fields("m", kFields, {{"must", 3}, {"flag", 1}});
            }),
            "m: flag must be true or false, got 1");
}

// A method inside another has all of its fields too.
TEST(FieldValues, AMethodInside) {
  constexpr Field kFields[] = {
      {"inner", FieldType::kMethod, R"({"method": "head"})", "h"}};
  EXPECT_EQ(complete_fields("m", kFields, Json::object()).dump(),
            R"({"inner":{"method":"head"}})");
  const Json lora = complete_fields(
      "m", kFields, {{"inner", {{"method", "lora"}, {"r", 2}}}})["inner"];
  EXPECT_EQ(lora.at("method"), "lora");
  EXPECT_EQ(lora.at("r"), 2);
  EXPECT_EQ(lora.size(), 1 + find_method("lora").fields.size());
  const auto refused = [&](const Json& inner) {
    return refusal([&] { complete_fields("m", kFields, {{"inner", inner}}); });
  };
  EXPECT_EQ(refused({{"method", "lora"}, {"rank", 2}}),
            "lora: key 'rank' is unknown; nearest: 'r'");
  EXPECT_EQ(refused("lora"),
            "m: inner must be a method with its config, as {method: lora, r: "
            "8}, got \"lora\"");
  EXPECT_EQ(refused({{"r", 8}}),
            "m: inner must be a method with its config, as {method: lora, r: "
            "8}, got {\"r\":8}");
}

}  // namespace
}  // namespace thinwire
