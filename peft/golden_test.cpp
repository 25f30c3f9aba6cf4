// Methods against other implementations (tests/golden/make_*.py): HF peft, or
// the paper's formula in PyTorch. Logits, and every trainable gradient relative
// to its own norm.
#include <gtest/gtest.h>

#include <set>

#include "ops/reference.h"
#include "peft/relayout.h"
#include "peft/testing.h"

namespace thinwire {
namespace {

using testing::Tiny;
using testing::TinyScoring;
using Json = nlohmann::ordered_json;

class Golden : public ::testing::TestWithParam<std::string> {};

// For a key's bias; empty for other entries.
std::string query_bias_beside(const std::string& name) {
  constexpr std::pair<std::string_view, const char*> kBeside[] = {
      {"self.key.bias", "self.query.bias"},
      {".k.bias", ".q.bias"},
      {".k_proj.bias", ".q_proj.bias"}};
  for (const auto& [key, query] : kBeside) {
    if (name.ends_with(key)) {
      return name.substr(0, name.size() - key.size()) + query;
    }
  }
  return {};
}

// Of a method whose mask is drawn at a boundary: all of its numbers trained
// until then, and are the file's `start.NAME`.
Delta beyond_boundary(Method& method, Delta before, std::int64_t step,
                      const SafetensorsFile& golden, Tiny& tiny,
                      Scoring& scoring) {
  std::size_t found = 0;
  for (std::size_t i = 0; i < before.entries().size(); ++i) {
    const std::string name = "start." + before.entries()[i].name;
    if (!golden.contains(name)) continue;
    before.leaf(static_cast<int>(i)).detach().copy_(golden.tensor(name));
    ++found;
  }
  std::size_t expected = 0;
  for (const std::string& name : golden.names()) {
    expected += name.starts_with("start.");
  }
  EXPECT_EQ(found, expected);
  tiny.adopt(method, before);
  before.unbind(tiny.backbone->parameters());
  return relayout(before,
                  testing::declare(
                      method, *tiny.backbone,
                      {.step = step, .scoring = &scoring, .current = &before}))
      .delta;
}

void expect_agreement(const std::string& golden_name) {
  const std::string folder = golden_path(golden_name);
  const Json about = testing::read_json(folder + "/adapter.json");
  const SafetensorsFile golden(folder + "/golden.safetensors");
  const std::string dtype = about.value("dtype", "fp32");
  // Sums of another order fall to the other side of a rounding to bf16 now and
  // then; the maker measured how far that moves its own results.
  const auto tolerance = [&](const std::string& name) {
    return kGoldenTolerance +
           (dtype != "fp32" ? 2 * about.at("spread").at(name).get<double>()
                            : 0);
  };
  Tiny tiny(about.at("model").get<std::string>(), dtype);
  TinyScoring scoring(tiny);
  const auto method =
      make_method(about.at("method").get<std::string>(), about.at("config"));
  Delta delta =
      testing::declare(*method, *tiny.backbone, {.scoring = &scoring});
  if (about.contains("boundary")) {
    delta = beyond_boundary(*method, std::move(delta),
                            about.at("boundary").get<std::int64_t>(), golden,
                            tiny, scoring);
  }

  std::size_t found = 0;
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    ASSERT_TRUE(golden.contains("value." + e.name)) << e.name;
    const at::Tensor value = golden.tensor("value." + e.name);
    at::Tensor leaf = delta.leaf(static_cast<int>(i)).detach();
    ASSERT_EQ(leaf.sizes(), value.sizes()) << e.name;
    if (e.kind == EntryKind::kMasked) {
      ASSERT_TRUE(e.index.equal(golden.tensor("index." + e.name))) << e.name;
      EXPECT_TRUE(leaf.equal(value)) << e.name;
    }
    leaf.copy_(value);
    ++found;
  }
  std::size_t expected = 0;
  for (const std::string& name : golden.names()) {
    expected += name.starts_with("value.");
    // What the method must find, and what is given it.
    const std::string found_as = "found.";
    if (name.starts_with(found_as)) {
      const std::string constant = name.substr(found_as.size());
      ASSERT_TRUE(delta.constants().contains(constant)) << constant;
      EXPECT_TRUE(delta.constants().at(constant).equal(golden.tensor(name)))
          << constant;
    }
    const std::string prefix = "constant.";
    if (!name.starts_with(prefix)) continue;
    const std::string constant = name.substr(prefix.size());
    ASSERT_TRUE(delta.constants().contains(constant)) << constant;
    ASSERT_EQ(delta.constants().at(constant).sizes(),
              golden.tensor(name).sizes());
    delta.set_constant(constant, golden.tensor(name));
  }
  EXPECT_EQ(found, expected);

  tiny.adopt(*method, delta);
  const at::Tensor logits = tiny.logits();
  const bool padded = tiny.classifier < 0;
  EXPECT_TRUE(golden_close("logits", padded ? tiny.cells().pad(logits) : logits,
                           golden.tensor("logits"), tolerance("logits")));
  cross_entropy_sum(logits, tiny.batch.input.labels).backward();
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const std::string& name = delta.entries()[i].name;
    const at::Tensor grad = delta.leaf(static_cast<int>(i)).grad();
    const at::Tensor want = golden.tensor("grad." + name);
    if (golden.contains("scale." + name)) {
      // Some of a tensor's gradients, of any size.
      const double norm =
          std::max(want.norm().item<double>(),
                   golden.tensor("scale." + name).item<double>());
      EXPECT_LE(grad.sub(want).norm().item<double>(), tolerance(name) * norm)
          << name;
      continue;
    }
    if (const std::string query = query_bias_beside(name); !query.empty()) {
      // Softmax does not see it: zero but for rounding, on the scale of the
      // query's.
      EXPECT_LT(grad.norm().item<double>(),
                kGoldenTolerance *
                    golden.tensor("grad." + query).norm().item<double>())
          << name;
      continue;
    }
    EXPECT_TRUE(golden_close(name, grad, want, tolerance(name)));
  }
}

TEST_P(Golden, OutputsAndGradientsAgree) { expect_agreement(GetParam()); }

TEST_P(Golden, TheirPlainTwinsAgreeToo) {
  const UseReferenceOps plain;
  expect_agreement(GetParam());
}

INSTANTIATE_TEST_SUITE_P(Methods, Golden,
                         ::testing::ValuesIn(testing::method_goldens()),
                         [](const auto& info) { return info.param; });

TEST(Golden, EveryMethodHasOne) {
  std::set<std::string> checked;
  for (const std::string& name : testing::method_goldens()) {
    const Json about =
        testing::read_json(testing::golden_root() / name / "adapter.json");
    checked.insert(about.at("method").get<std::string>());
  }
  for (const MethodInfo& info : methods()) {
    // What these train are the model's own tensors: bert_test, t5_test.
    if (info.id == "full" || info.id == "head") continue;
    EXPECT_TRUE(checked.contains(std::string(info.id))) << info.id;
  }
}

}  // namespace
}  // namespace thinwire
