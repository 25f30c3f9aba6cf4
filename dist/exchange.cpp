#include "dist/exchange.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "comm/top_k.h"
#include "comm/traced_reducer.h"
#include "dist/bucket_plan.h"
#include "dist/dense_reducer.h"
#include "ops/optimizer_pass.h"

namespace thinwire {

struct Exchange::Scan {
  std::atomic<int> pending{0};  // entries that are not final yet
  bool done = false;
  double squares = 0;
  int nonfinite = -1;  // entry
};

Exchange::Exchange(Communicator& comm, const ExchangeOptions& options,
                   Delta& delta, const Parameters& parameters, Tuned tuned,
                   std::string_view config, std::string trace)
    : comm_(comm),
      options_(options),
      delta_(delta),
      parameters_(parameters),
      tuned_(std::move(tuned)),
      config_(config),
      trace_(std::move(trace)) {
  if (tuned_.order.size() != delta.entries().size()) tuned_.order.clear();
  plan();
  // Local steps exchange what no backward makes; one rank exchanges nothing;
  // gradients made elsewhere come here when backward is done.
  if (!delta.placed() && options.overlap && !options.local() &&
      options.what == ExchangeOptions::What::kDelta && comm.size() > 1) {
    finality_ = std::make_unique<Finality>(
        delta, [this](int entry) { became_final(entry); });
  }
}

Exchange::~Exchange() = default;

void Exchange::plan() {
  buckets_ =
      plan_buckets(delta_, options_.codec, tuned_.bucket_bytes, tuned_.order);
  holders_ = buckets_of_entries(delta_, buckets_);
  pieces_.assign(buckets_.size(), {});
  for (std::size_t e = 0; e < holders_.size(); ++e) {
    const DeltaEntry& entry = delta_.entries()[e];
    for (const int b : holders_[e]) {
      const Bucket& bucket = buckets_[static_cast<std::size_t>(b)];
      const std::int64_t from = std::max(entry.offset, bucket.offset);
      const std::int64_t to =
          std::min(entry.offset + entry.count, bucket.offset + bucket.count);
      pieces_[static_cast<std::size_t>(b)].push_back(
          {static_cast<int>(e), from, to - from});
    }
  }
  scans_ = std::make_unique<Scan[]>(buckets_.size());
  Hasher h;
  h.string(delta_.hash().hex()).string(config_);
  for (const Bucket& b : buckets_) {
    h.number(b.offset).number(b.count).number(
        static_cast<std::int64_t>(b.codec));
  }
  layout_ = h.digest();
  const bool rounds = comm_.size() > 1 && options_.error_feedback &&
                      std::ranges::any_of(buckets_, [](const Bucket& b) {
                        return b.codec != Codec::kFp32;
                      });
  if (!residual_.defined() &&
      (rounds || options_.what == ExchangeOptions::What::kTopK)) {
    residual_ = at::zeros({delta_.size()}, at::kFloat);
  }
  ReducerOptions options{.buckets = buckets_,
                         .algorithm = options_.algorithm,
                         .residual = residual_.defined() ? &residual_ : nullptr,
                         .overlap = options_.overlap,
                         .link = tuned_.link};
  reducer_.reset();
  reducer_ = make(std::move(options));
  if (!trace_.empty()) {
    reducer_ = make_traced_reducer(std::move(reducer_), buckets_, trace_);
  }
}

std::unique_ptr<Reducer> Exchange::make(ReducerOptions options) {
  switch (options_.what) {
    case ExchangeOptions::What::kDelta:
      return make_reducer(comm_, delta_.grads(), std::move(options));
    case ExchangeOptions::What::kDense:
      return make_dense_reducer(comm_, delta_, parameters_, std::move(options));
    case ExchangeOptions::What::kTopK:
      return make_top_k_reducer(comm_, delta_.grads(), std::move(options),
                                options_.density);
  }
  fail<InternalError>("exchange {}", static_cast<int>(options_.what));
}

void Exchange::begin(std::uint64_t sequence, const at::Tensor& loss) {
  THINWIRE_ASSERT(!begun_, "exchange {} is open", sequence_);
  sequence_ = sequence;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    scans_[b].pending = static_cast<int>(pieces_[b].size());
    scans_[b].done = false;
  }
  begun_ = true;
  reducer_->begin(sequence);
  if (finality_ != nullptr && loss.defined()) finality_->watch(loss);
}

void Exchange::became_final(int entry) {
  for (const int b : holders_[static_cast<std::size_t>(entry)]) {
    const auto bucket = static_cast<std::size_t>(b);
    if (scans_[bucket].pending.fetch_sub(1) > 1) continue;
    scan(bucket);
    reducer_->ready(bucket);
  }
}

// Before it goes: afterwards the sum of all ranks lies there.
void Exchange::scan(std::size_t bucket) {
  Scan& s = scans_[bucket];
  s.squares = 0;
  s.nonfinite = -1;
  const float* x = delta_.grads().const_data_ptr<float>();
  for (const Piece& piece : pieces_[bucket]) {
    const double squares = sum_of_squares(x + piece.offset, piece.count);
    s.squares += squares;
    if (s.nonfinite < 0 && !std::isfinite(squares)) s.nonfinite = piece.entry;
  }
  s.done = true;
}

std::string Exchange::first_nonfinite() {
  THINWIRE_ASSERT(begun_, "no exchange is open");
  if (finality_ != nullptr) finality_->stop();
  int first = -1;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (!scans_[b].done) scan(b);
    const int entry = scans_[b].nonfinite;
    if (entry >= 0 && (first < 0 || entry < first)) first = entry;
  }
  return first < 0 ? ""
                   : delta_.entries()[static_cast<std::size_t>(first)].name;
}

std::uint32_t Exchange::fingerprint() const {
  const Digest d = Hasher()
                       .number(static_cast<std::int64_t>(sequence_))
                       .string(layout_.hex())
                       .digest();
  return static_cast<std::uint32_t>(d.low);
}

ExchangeStats Exchange::finish(Guard& guard) {
  THINWIRE_ASSERT(begun_, "no exchange is open");
  double squares = 0;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    squares += scans_[b].squares;
  }
  guard.squares = static_cast<float>(squares);
  guard.fingerprint = fingerprint();
  begun_ = false;
  const ExchangeStats stats = reducer_->finish(guard);
  if (finality_ != nullptr && tuned_.order.empty()) record_order();
  return stats;
}

// The first backward that reached anything on rank 0 decides.
void Exchange::record_order() {
  const std::vector<int>& mine = finality_->order();
  const auto bytes =
      comm_.broadcast_bytes(comm_.rank() == 0 ? std::as_bytes(std::span(mine))
                                              : std::span<const std::byte>(),
                            0, {.tag = "order of buckets"});
  if (bytes.empty()) return;
  std::vector<int> reached(bytes.size() / sizeof(int));
  std::memcpy(reached.data(), bytes.data(), reached.size() * sizeof(int));
  tuned_.order = complete_order(delta_, reached);
  plan();
}

}  // namespace thinwire
