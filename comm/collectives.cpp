#include "comm/collectives.h"

#include <algorithm>
#include <array>
#include <bit>

namespace thinwire {
namespace {

// A ring moves its chunks in pieces: the sum of one runs while the next is on
// its way, and both stay in cache.
constexpr std::size_t kPieceBytes = 256 * 1024;

// Chunk i of P: the first (count mod P) chunks hold one element more.
struct Chunks {
  std::int64_t count, ranks, element;
  std::int64_t begin(std::int64_t i) const {
    return (i * (count / ranks) + std::min(i, count % ranks)) * element;
  }
  std::int64_t bytes(std::int64_t i) const { return begin(i + 1) - begin(i); }
};

int wrap(int i, int ranks) { return ((i % ranks) + ranks) % ranks; }

struct Reduction {
  Element element;
  ReduceOp op;
  // Into data: data op other, lower rank first.
  void operator()(std::byte* data, const std::byte* other, std::size_t bytes,
                  bool other_is_lower) const {
    combine(op, element, other_is_lower ? other : data,
            other_is_lower ? data : other, data,
            bytes / element_bytes(element));
  }
};

void reduce_chunk(Call& call, std::span<const std::byte> out, int to,
                  std::span<std::byte> in, int from, const Reduction& reduce,
                  std::vector<std::byte>& scratch) {
  const auto pieces = [](std::size_t bytes) {
    return (bytes + kPieceBytes - 1) / kPieceBytes;
  };
  const auto piece = [](auto span, std::size_t i) {
    const std::size_t begin = i * kPieceBytes;
    return span.subspan(begin, std::min(kPieceBytes, span.size() - begin));
  };
  const std::size_t ins = pieces(in.size());
  const std::size_t outs = pieces(out.size());
  // Two halves: one is filled while the other is added.
  const std::size_t half = std::min(kPieceBytes, in.size());
  if (scratch.size() < 2 * half) scratch.resize(2 * half);
  const auto start = [&](std::size_t i) {
    return call.start_receive(
        from, std::span(scratch).subspan((i % 2) * half, piece(in, i).size()));
  };
  Call::Pending next;
  if (ins > 0) next = start(0);
  for (std::size_t i = 0; i < std::max(ins, outs); ++i) {
    Call::Pending sent;
    if (i < outs) sent = call.start_send(to, piece(out, i));
    if (i < ins) {
      Call::Pending received = std::move(next);
      next = Call::Pending();
      received.wait();
      if (i + 1 < ins) next = start(i + 1);
      const auto part = piece(in, i);
      reduce(part.data(), scratch.data() + (i % 2) * half, part.size(), true);
    }
    sent.wait();
  }
}

// Chunk c travels from rank c once around to rank c - 1, gathering the sum in
// that order, then once more to reach everyone: one owner adds each chunk, so
// all ranks hold its bits.
void ring_all_reduce(Call& call, std::span<std::byte> data,
                     const Reduction& reduce, std::vector<std::byte>& scratch) {
  const int ranks = call.size(), rank = call.rank();
  const auto element = static_cast<std::int64_t>(element_bytes(reduce.element));
  const Chunks chunks{static_cast<std::int64_t>(data.size()) / element, ranks,
                      element};
  const auto chunk = [&](int i) {
    const int c = wrap(i, ranks);
    return data.subspan(static_cast<std::size_t>(chunks.begin(c)),
                        static_cast<std::size_t>(chunks.bytes(c)));
  };
  const int to = wrap(rank + 1, ranks), from = wrap(rank - 1, ranks);
  for (int step = 0; step < ranks - 1; ++step) {
    reduce_chunk(call, chunk(rank - step), to, chunk(rank - step - 1), from,
                 reduce, scratch);
  }
  for (int step = 0; step < ranks - 1; ++step) {
    call.exchange(to, chunk(rank + 1 - step), from, chunk(rank - step));
  }
}

// Ranks beyond a power of two hand their data to a neighbour first and get the
// result from it last. Of 2 * extra lowest ranks the even ones sit out.
struct Doubling {
  int core, extra;  // core: largest power of two <= P
  explicit Doubling(int ranks)
      : core(static_cast<int>(std::bit_floor(static_cast<unsigned>(ranks)))),
        extra(ranks - core) {}
  bool sits_out(int rank) const { return rank < 2 * extra && rank % 2 == 0; }
  bool helps(int rank) const { return rank < 2 * extra && rank % 2 == 1; }
  int to_core(int rank) const {
    return rank < 2 * extra ? rank / 2 : rank - extra;
  }
  int to_rank(int c) const { return c < extra ? 2 * c + 1 : c + extra; }
};

void doubling_all_reduce(Call& call, std::span<std::byte> data,
                         const Reduction& reduce,
                         std::vector<std::byte>& scratch) {
  const int rank = call.rank();
  const Doubling shape(call.size());
  if (scratch.size() < data.size()) scratch.resize(data.size());
  const auto other = std::span(scratch).first(data.size());
  if (shape.sits_out(rank)) {
    call.send(rank + 1, data);
    call.receive(rank + 1, data);
    return;
  }
  if (shape.helps(rank)) {
    call.receive(rank - 1, other);
    reduce(data.data(), other.data(), data.size(), true);
  }
  const int me = shape.to_core(rank);
  for (int bit = 1; bit < shape.core; bit *= 2) {
    const int peer = shape.to_rank(me ^ bit);
    call.exchange(peer, data, peer, other);
    reduce(data.data(), other.data(), data.size(), (me & bit) != 0);
  }
  if (shape.helps(rank)) call.send(rank - 1, data);
}

std::span<std::byte> bytes_of(std::int64_t& number) {
  return std::as_writable_bytes(std::span(&number, 1));
}

}  // namespace

void all_reduce(Call& call, std::span<std::byte> data, Element element,
                ReduceOp op, std::vector<std::byte>& scratch) {
  if (call.size() == 1) return;
  const Reduction reduce{element, op};
  if (static_cast<std::int64_t>(data.size()) < kRingMinBytes) {
    doubling_all_reduce(call, data, reduce, scratch);
  } else {
    ring_all_reduce(call, data, reduce, scratch);
  }
}

std::int64_t all_reduce_bytes_sent(int ranks, int rank, std::int64_t bytes,
                                   std::int64_t element) {
  if (ranks == 1) return 0;
  if (bytes < kRingMinBytes) {
    const Doubling shape(ranks);
    if (shape.sits_out(rank)) return bytes;
    const int rounds = std::countr_zero(static_cast<unsigned>(shape.core));
    return (rounds + (shape.helps(rank) ? 1 : 0)) * bytes;
  }
  // Every chunk but one in each half.
  const Chunks chunks{bytes / element, ranks, element};
  return 2 * bytes - chunks.bytes(wrap(rank + 1, ranks)) -
         chunks.bytes(wrap(rank + 2, ranks));
}

std::vector<std::vector<std::byte>> all_gather_v(
    Call& call, std::span<const std::byte> data) {
  const int ranks = call.size(), rank = call.rank();
  const int to = wrap(rank + 1, ranks), from = wrap(rank - 1, ranks);
  const auto slot = [&](int i) {
    return static_cast<std::size_t>(wrap(i, ranks));
  };
  std::vector<std::int64_t> lengths(static_cast<std::size_t>(ranks));
  lengths[slot(rank)] = static_cast<std::int64_t>(data.size());
  for (int step = 0; step < ranks - 1; ++step) {
    call.exchange(to, bytes_of(lengths[slot(rank - step)]), from,
                  bytes_of(lengths[slot(rank - step - 1)]));
  }
  std::vector<std::vector<std::byte>> out(static_cast<std::size_t>(ranks));
  for (std::size_t r = 0; r < out.size(); ++r) {
    out[r].resize(static_cast<std::size_t>(lengths[r]));
  }
  std::ranges::copy(data, out[slot(rank)].begin());
  for (int step = 0; step < ranks - 1; ++step) {
    call.exchange(to, out[slot(rank - step)], from, out[slot(rank - step - 1)]);
  }
  return out;
}

void broadcast(Call& call, std::span<std::byte> data, int root) {
  const int ranks = call.size();
  const int me = wrap(call.rank() - root, ranks);  // the root counts as 0
  int bit = 1;
  while (bit < ranks && (me & bit) == 0) bit *= 2;
  if (me != 0) call.receive(wrap(me - bit + root, ranks), data);
  for (bit /= 2; bit > 0; bit /= 2) {
    if (me + bit < ranks) call.send(wrap(me + bit + root, ranks), data);
  }
}

std::vector<std::byte> broadcast_bytes(Call& call,
                                       std::span<const std::byte> data,
                                       int root) {
  std::int64_t length = static_cast<std::int64_t>(data.size());
  broadcast(call, bytes_of(length), root);
  std::vector<std::byte> out(static_cast<std::size_t>(length));
  if (call.rank() == root) std::ranges::copy(data, out.begin());
  broadcast(call, out, root);
  return out;
}

void barrier(Call& call) {
  const int ranks = call.size(), rank = call.rank();
  for (int distance = 1; distance < ranks; distance *= 2) {
    call.exchange(wrap(rank + distance, ranks), {},
                  wrap(rank - distance, ranks), {});
  }
}

}  // namespace thinwire
