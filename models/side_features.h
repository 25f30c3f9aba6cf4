// Features: what a network beside a frozen backbone reads of it for one sample,
// as numbers that can be kept and given back in place of a pass through the
// backbone's layers. T rows of a stream, d the backbone's width.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/sample.h"
#include "models/backbone.h"

namespace thinwire {

// What is read of each stream of a batch, in the order of BackboneInput: the
// embeddings and these layers, ascending, each d numbers a row.
struct SideTaps {
  struct Stream {
    Stack stack = Stack::kEncoder;
    std::vector<int> layers;

    std::int64_t tensors() const { return 1 + std::ssize(layers); }
  };
  std::vector<Stream> streams;
  std::int64_t width = 0;  // d

  // As "encoder 1 2 5, decoder 0 1, 768 wide".
  std::string text() const;
};

// Of the network that is attached.
SideTaps side_taps(const Backbone& backbone);

// Why what is read is not a function of a sample and the frozen weights alone,
// or is not read at all; "": it is.
std::string why_no_features(const Backbone& backbone);

// Rows of each stream that sample b has: [begin, end).
struct SampleRows {
  std::int64_t begin = 0, end = 0;

  std::int64_t count() const { return end - begin; }
};
std::vector<std::vector<SampleRows>> sample_rows(const BackboneInput& in);

// Of each sample of `in` [B], rounded to bf16: streams in turn, of each its
// tensors [T of the sample, d] in turn. pass: one through the backbone with
// `in`, in evaluation mode, without a graph; the network does not run in it.
std::vector<Features> make_features(Backbone& backbone, const BackboneInput& in,
                                    const std::function<void()>& pass);

// Puts them in the place of a pass: TokenStream::states of the streams, fp32
// where the backbone's weights are. features [B]. Throws UsageError where a
// sample's were made from other tokens or for other layers.
void give_features(const Backbone& backbone,
                   std::span<const Features* const> features,
                   BackboneInput& in);

}  // namespace thinwire
