#include "comm/traced_reducer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "base/error.h"
#include "base/temp_folder.h"

namespace thinwire {
namespace {

using testing::HasSubstr;

struct Calls {
  std::vector<std::string> made;
};

class Recorder : public Reducer {
 public:
  explicit Recorder(Calls& calls) : calls_(calls) {}
  void begin(std::uint64_t sequence) override {
    calls_.made.push_back("begin " + std::to_string(sequence));
  }
  void ready(std::size_t bucket) override {
    calls_.made.push_back("ready " + std::to_string(bucket));
  }
  ExchangeStats finish(Guard& guard) override {
    calls_.made.push_back("finish");
    guard.loss += 1;
    return {.bytes_sent = 77,
            .bytes_received = 78,
            .seconds_blocked = 0.5,
            .seconds_in_flight = 0.75};
  }

 private:
  Calls& calls_;
};

// The numbers after "key":, an array's or one.
std::vector<double> numbers(const std::string& line, const std::string& key) {
  std::vector<double> out;
  std::size_t at = line.find("\"" + key + "\":") + key.size() + 3;
  if (line[at] == '[') ++at;
  while (true) {
    std::size_t used = 0;
    out.push_back(std::stod(line.substr(at), &used));
    at += used;
    if (line[at] != ',' || line[at + 1] == '"') return out;
    ++at;
  }
}

TEST(TracedReducer, PassesEverythingOnAndWritesWhen) {
  const TempFolder folder;
  const std::string path = folder / "exchange-0.jsonl";
  Calls calls;
  {
    const auto reducer = make_traced_reducer(
        std::make_unique<Recorder>(calls),
        {{0, 10, Codec::kFp32}, {10, 20, Codec::kInt8}}, path);
    Guard guard;
    reducer->begin(4);
    reducer->ready(1);
    const ExchangeStats stats = reducer->finish(guard);
    EXPECT_EQ(stats.bytes_sent, 77);
    EXPECT_EQ(stats.seconds_in_flight, 0.75);
    EXPECT_EQ(guard.loss, 1);
    reducer->begin(5);
    reducer->finish(guard);
  }
  EXPECT_THAT(calls.made, testing::ElementsAre("begin 4", "ready 1", "finish",
                                               "begin 5", "finish"));
  std::ifstream file(path);
  std::string head, first, second, rest;
  std::getline(file, head);
  std::getline(file, first);
  std::getline(file, second);
  EXPECT_FALSE(std::getline(file, rest));
  EXPECT_EQ(head, R"({"buckets":[{"count":10,"codec":"fp32"},)"
                  R"({"count":20,"codec":"int8"}]})");
  EXPECT_THAT(first, HasSubstr("\"exchange\":4,"));
  EXPECT_THAT(first, HasSubstr("\"sent\":77}"));
  const auto ready = numbers(first, "ready");
  ASSERT_EQ(ready.size(), 2u);
  const double begin = numbers(first, "begin")[0];
  const double finish = numbers(first, "finish")[0];
  EXPECT_LE(begin, ready[1]);
  EXPECT_LE(ready[1], finish);
  EXPECT_EQ(ready[0], finish);  // not named before
  EXPECT_LE(finish, numbers(first, "done")[0]);
  EXPECT_THAT(second, HasSubstr("\"exchange\":5,"));
}

TEST(TracedReducer, AFileThatCannotBeOpenedIsNamed) {
  Calls calls;
  EXPECT_THROW(make_traced_reducer(std::make_unique<Recorder>(calls), {},
                                   testing::TempDir() + "/no/such/folder/x"),
               IoError);
}

}  // namespace
}  // namespace thinwire
