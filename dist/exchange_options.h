// When the ranks exchange, what, and how it is coded: section comm of a config.
#pragma once

#include <cstdint>

#include "comm/algorithm.h"

namespace thinwire {

struct ExchangeOptions {
  Codec codec = Codec::kFp32;  // of groups that name none of their own
  Algorithm algorithm = Algorithm::kAuto;
  std::int64_t bucket_bytes = 0;  // of fp32 numbers; 0: from the link
  bool overlap = true;            // buckets go while backward still runs
  bool measure = false;           // the link, at the start of a run
  bool error_feedback = true;     // of codecs that round
  // When each bucket was final and each exchange over, as lines of JSON in
  // exchange-RANK.jsonl of the run folder (comm/traced_reducer.h).
  bool trace = false;

  // H > 1: local steps; every H steps the differences from the last common
  // values are exchanged and an outer optimizer moves those.
  std::int64_t sync_every = 1;
  double outer_lr = 1;
  double outer_momentum = 0;  // Nesterov; with lr 1 and 0 a plain average

  // What goes over the wire: the delta; all numbers of the backbone, masked
  // afterwards; or the largest `density` of the delta's with their positions.
  enum class What { kDelta, kDense, kTopK };
  What what = What::kDelta;
  double density = 0.01;

  // Every rank moves all numbers and the mean counts, or each its own share
  // (DeclareContext::workers) and the sum counts.
  enum class Workers { kIdentical, kDisjoint };
  Workers workers = Workers::kIdentical;

  // Ranks take steps of their own between exchanges.
  bool local() const { return sync_every > 1 || workers == Workers::kDisjoint; }
};

}  // namespace thinwire
