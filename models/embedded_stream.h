// A stream of embeddings into which attachments have put vectors: its layout
// now, and where its tokens went. Internal to the backbones.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "ops/layout.h"

namespace thinwire {

class EmbeddedStream {
 public:
  explicit EmbeddedStream(const Layout& original);

  // n rows come before row `at` of every sequence.
  void insert(std::int64_t n, std::int64_t at);
  // Every row's position grows by n.
  void shift(std::int64_t n);
  // first_rows() are the sequences' first rows, tokens or not.
  void pool_first_row() { pools_first_row_ = true; }

  // int64 [T]: rows of the original's tokens; undefined if nothing was put in.
  at::Tensor token_rows() const;
  // int64 [B]: what pooling reads, each sequence's first token.
  at::Tensor first_rows() const;

  Layout layout;

 private:
  std::vector<std::int64_t> first_;  // of the original
  std::vector<std::int64_t> rows_;   // empty: as they were
  bool pools_first_row_ = false;
};

}  // namespace thinwire
