// One example, as shards hold it and tasks take it.
#pragma once

#include <cstdint>
#include <vector>

namespace thinwire {

// What a frozen model made of a sample (models/side_features.h).
struct Features {
  std::uint64_t source = 0;           // hash of what the model read
  std::vector<std::uint16_t> values;  // bf16; empty: there are none
};

// Token ids are those of the tokenizer the shard was prepared with; nothing is
// padded.
struct Sample {
  std::uint64_t id = 0;  // unique in its folder
  std::int32_t task = 0;
  std::vector<std::int32_t> input;   // [n] token ids, special tokens included
  std::vector<std::int32_t> types;   // [n] segment ids, or empty: all zero
  std::vector<std::int32_t> target;  // [m] token ids (text_to_text), or empty
  // choose: tokens of each answer; `target` holds the answers end to end.
  std::vector<std::int32_t> choices;
  double label = 0;  // class index, number of the right answer, or value
  // Random numbers are a function of id ^ salt: the tasks of one run, whose ids
  // may be the same, differ in it; the first one's is 0.
  std::uint64_t salt = 0;
  Features features;  // where a cache has been read
};

}  // namespace thinwire
