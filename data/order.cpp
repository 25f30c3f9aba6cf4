#include "data/order.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace thinwire {
namespace {

// The stages draw from keys of their own.
enum Stage : std::uint64_t { kChunks = 0, kInWindow = 1, kPieces = 2 };

PhiloxKey stage_key(std::uint64_t seed, std::uint64_t epoch, Stage stage,
                    std::uint64_t part = 0) {
  return make_key(seed, Purpose::kOrder,
                  mix64(mix64(mix64(epoch) ^ stage) ^ part));
}

}  // namespace

GlobalOrder::GlobalOrder(std::int64_t samples, const OrderOptions& options,
                         Lengths lengths)
    : samples_(samples), options_(options), lengths_(std::move(lengths)) {
  if (samples < 1) fail<UsageError>("data: there are no samples to order");
  if (options.bucket_window < 0 || options.bucket_piece < 1) {
    fail<UsageError>(
        "data: bucket_window must be at least 0 and bucket_piece "
        "at least 1, got {} and {}",
        options.bucket_window, options.bucket_piece);
  }
}

std::vector<std::int64_t> GlobalOrder::window(std::uint64_t epoch,
                                              std::int64_t w) const {
  THINWIRE_ASSERT(w >= 0 && w < windows(), "{} of {}", w, windows());
  if (!options_.shuffle) {
    std::vector<std::int64_t> order(
        static_cast<std::size_t>(std::min(kWindow, samples_ - w * kWindow)));
    std::iota(order.begin(), order.end(), w * kWindow);
    return order;
  }
  std::vector<std::int64_t> order = shuffled(epoch, w);
  if (options_.bucket_window > 1) bucket(epoch, w, order);
  return order;
}

std::vector<std::int64_t> GlobalOrder::shuffled(std::uint64_t epoch,
                                                std::int64_t w) const {
  // Sequence of chunks: whole ones permuted, then the incomplete one.
  const std::int64_t whole = samples_ / kChunk;
  const PhiloxKey chunks = stage_key(options_.seed, epoch, kChunks);
  const std::int64_t first_slot = w * (kWindow / kChunk);
  const std::int64_t n = std::min(kWindow, samples_ - w * kWindow);

  std::vector<std::int64_t> start;  // storage position of each chunk here
  for (std::int64_t at = 0; at < n; at += kChunk) {
    const std::int64_t slot = first_slot + at / kChunk;
    start.push_back(
        kChunk * (slot < whole ? static_cast<std::int64_t>(permute_index(
                                     static_cast<std::uint64_t>(slot),
                                     static_cast<std::uint64_t>(whole), chunks))
                               : whole));
  }
  const PhiloxKey inside =
      stage_key(options_.seed, epoch, kInWindow, static_cast<std::uint64_t>(w));
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto from = static_cast<std::int64_t>(
        permute_index(i, static_cast<std::uint64_t>(n), inside));
    order[i] = start[static_cast<std::size_t>(from / kChunk)] + from % kChunk;
  }
  return order;
}

void GlobalOrder::bucket(std::uint64_t epoch, std::int64_t w,
                         std::vector<std::int64_t>& order) const {
  // Lengths by chunk: the window's samples come from few of them.
  std::unordered_map<std::int64_t, std::vector<std::int32_t>> by_chunk;
  const auto length = [&](std::int64_t sample) {
    const std::int64_t first = sample - sample % kChunk;
    auto& chunk = by_chunk[first];
    if (chunk.empty()) {
      chunk = lengths_(first, std::min(kChunk, samples_ - first));
    }
    return chunk[static_cast<std::size_t>(sample - first)];
  };
  std::vector<std::pair<std::int32_t, std::int64_t>> keyed;  // length, sample
  keyed.reserve(order.size());
  for (const std::int64_t sample : order) {
    keyed.emplace_back(length(sample), sample);
  }

  // Samples before this window modulo the piece, without overflow.
  const auto piece = static_cast<std::uint64_t>(options_.bucket_piece);
  const auto n = static_cast<std::uint64_t>(samples_);
  const std::uint64_t before =
      ((epoch % piece) * (n % piece) % piece +
       static_cast<std::uint64_t>(w * kWindow) % piece) %
      piece;
  // The head completes the piece that an earlier window left unfinished.
  const std::size_t head =
      std::min<std::size_t>((piece - before) % piece, order.size());
  const auto run = static_cast<std::size_t>(options_.bucket_window);

  std::size_t out = head;
  std::uint64_t runs = 0;
  for (std::size_t at = head; at < keyed.size(); at += run, ++runs) {
    const std::size_t size = std::min(run, keyed.size() - at);
    const auto begin = keyed.begin() + static_cast<std::ptrdiff_t>(at);
    std::stable_sort(
        begin, begin + static_cast<std::ptrdiff_t>(size),
        [](const auto& a, const auto& b) { return a.first < b.first; });
    const std::uint64_t pieces = size / piece;
    const PhiloxKey key =
        stage_key(options_.seed, epoch, kPieces,
                  mix64(static_cast<std::uint64_t>(w)) + runs);
    for (std::uint64_t p = 0; p < pieces; ++p) {
      const std::size_t from = at + permute_index(p, pieces, key) * piece;
      for (std::size_t i = 0; i < piece; ++i) {
        order[out++] = keyed[from + i].second;
      }
    }
    // What does not fill a piece stays last: the longest ones of the run.
    for (std::size_t i = at + pieces * piece; i < at + size; ++i) {
      order[out++] = keyed[i].second;
    }
  }
}

}  // namespace thinwire
