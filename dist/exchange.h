// One exchange of a delta's vector of gradients: cut into buckets, each sent as
// soon as backward has made it final, guarded, its rounding errors kept.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "comm/link_model.h"
#include "comm/reducer.h"
#include "dist/exchange_options.h"
#include "dist/finality.h"
#include "peft/relayout.h"

namespace thinwire {

class Communicator;
class Parameters;

// What is found out at the start of a run; part of a checkpoint, so that a
// resumed run sums in the same order.
struct Tuned {
  std::int64_t bucket_bytes = 0;  // 0: not yet
  LinkModel link;                 // zeros: not measured
  std::vector<int> order;         // of entries by finality; empty: not yet
  bool operator==(const Tuned&) const = default;
};

class Exchange {
 public:
  // Exchanges delta.grads(); all outlive it. config: of what else must agree.
  // Equal on all ranks, but for trace: a file for the times, "": none.
  Exchange(Communicator& comm, const ExchangeOptions& options, Delta& delta,
           const Parameters& parameters, Tuned tuned, std::string_view config,
           std::string trace = "");
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Opens the exchange with the run's number `sequence`. loss: the last
  // micro-batch's, before its backward; undefined: finish() finds everything
  // final. Does not block.
  void begin(std::uint64_t sequence, const at::Tensor& loss);
  bool begun() const { return begun_; }
  // After backward. Name of the first entry that is not finite here, or "".
  std::string first_nonfinite();
  // Blocks until the vector holds the sum and guard what all said; fills in
  // fingerprint and squares.
  ExchangeStats finish(Guard& guard);

  std::int64_t planned_bytes() const { return reducer_->planned_bytes(); }

  const Tuned& tuned() const { return tuned_; }
  const std::vector<Bucket>& buckets() const { return buckets_; }
  // fp32 [k]; undefined when nothing is rounded, or its error dropped.
  at::Tensor& residual() { return residual_; }

 private:
  struct Piece {  // of one entry in one bucket
    int entry;
    std::int64_t offset, count;
  };
  struct Scan;  // of one bucket: what this rank had in it

  void plan();
  std::unique_ptr<Reducer> make(ReducerOptions options);
  void record_order();
  void became_final(int entry);
  void scan(std::size_t bucket);
  std::uint32_t fingerprint() const;

  Communicator& comm_;
  const ExchangeOptions& options_;
  Delta& delta_;
  const Parameters& parameters_;
  Tuned tuned_;
  std::string config_, trace_;
  std::vector<Bucket> buckets_;
  std::vector<std::vector<int>> holders_;   // buckets of each entry
  std::vector<std::vector<Piece>> pieces_;  // of each bucket
  std::unique_ptr<Scan[]> scans_;           // of each bucket
  at::Tensor residual_;
  std::unique_ptr<Reducer> reducer_;
  std::unique_ptr<Finality> finality_;
  Digest layout_;  // of all that ranks must share
  std::uint64_t sequence_ = 0;
  bool begun_ = false;
};

}  // namespace thinwire
