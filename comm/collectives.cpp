#include "comm/collectives.h"

#include <algorithm>

namespace thinwire {
namespace {

int wrap(int i, int ranks) { return ((i % ranks) + ranks) % ranks; }

std::span<std::byte> bytes_of(std::int64_t& number) {
  return std::as_writable_bytes(std::span(&number, 1));
}

}  // namespace

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
