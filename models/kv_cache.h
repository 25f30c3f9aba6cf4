// What a decoder remembers of the tokens that it has read: the keys and values
// of every attention site, so that a pass reads new tokens only. Vaswani et al.
// 2017, "Attention is all you need", sec. 3.2.3: a position attends to those
// before it, hence what they computed never changes.
//
// A cache belongs to the sequences of one batch while they grow: S streams, of
// which several may continue one input (beams). Its owner hands it to each
// decoder pass as ForwardContext::cache; the first pass reads the prompts,
// every later one the tokens behind them. Vectors that methods put in front of
// a prompt enter with the first pass, extra keys and values are asked for once,
// and positions go on from the last row's.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ops/attention.h"
#include "ops/layout.h"

namespace thinwire {

class KvCache {
 public:
  // One stream for each of `inputs` sequences.
  explicit KvCache(std::int64_t inputs);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  std::int64_t streams() const {
    return static_cast<std::int64_t>(input_of_.size());
  }
  bool empty() const { return keys_.offsets.empty(); }  // before a pass
  // All rows read so far, those of the pass that runs included.
  const Layout& keys() const { return keys_; }

  // Between passes: stream i goes on from what stream from[i] was; an old
  // stream may go on as several or not at all. The streams of one input stay
  // side by side, inputs in their order. Copies what is kept.
  void select(const std::vector<std::int64_t>& from);

  // That of a network which runs beside the backbone: made in the first pass,
  // its streams are chosen with these.
  KvCache& side();

  // The rest is the backbone's. At the start of a pass: `rows` (what
  // attachments insert included) are added; behind the first pass they get
  // their positions here.
  void begin(Layout& rows);
  // A decoder's attention to its own rows: in.k and in.v of the new rows become
  // those of all rows, in.keys their layout.
  void attend_self(int site, AttentionInputs& in);
  // An attention to the inputs, described by in.keys: project() sets in.k and
  // in.v, and is called in the first pass only. All streams of an input become
  // queries of one sequence, so that they share its keys.
  void attend_inputs(int site, AttentionInputs& in,
                     const std::function<void()>& project);
  // What make() gave in the first pass.
  using KeysValues = std::pair<at::Tensor, at::Tensor>;
  KeysValues extra(int site, const std::function<KeysValues()>& make);

 private:
  struct Entry {
    at::Tensor k, v;
    bool of_inputs = false;  // rows of inputs_, else of keys_
  };

  void group_streams(const Layout& rows);

  std::vector<std::int64_t> input_of_;  // [S], never descending
  Layout keys_;
  at::Tensor order_;        // ragged: rows of (old, new) end to end -> keys_
  std::int64_t added_ = 0;  // rows of each stream in this pass; 0: ragged
  Layout inputs_;           // of what attend_inputs() reads
  // Of this pass, where an input has several streams: one sequence per input,
  // and each one's first stream.
  Layout grouped_;
  std::vector<std::int64_t> first_stream_;
  std::unordered_map<int, Entry> entries_;
  std::unordered_map<int, KeysValues> extras_;
  std::unique_ptr<KvCache> side_;
};

}  // namespace thinwire
