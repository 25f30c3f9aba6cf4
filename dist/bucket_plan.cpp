#include "dist/bucket_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace thinwire {
namespace {

// Parts of a long entry begin at multiples of so many numbers: whole blocks of
// every codec.
constexpr std::int64_t kBlock = 256;

// Of entry i with the gap behind it.
std::int64_t end_of(const Delta& delta, std::size_t i) {
  return i + 1 < delta.entries().size() ? delta.entries()[i + 1].offset
                                        : delta.size();
}

Codec codec_of(const Delta& delta, const DeltaEntry& e, Codec fallback) {
  const auto& group = delta.groups()[static_cast<std::size_t>(e.group)];
  return group.codec == "default" ? fallback : parse_codec(group.codec);
}

void append_parts(std::vector<Bucket>& out, std::int64_t offset,
                  std::int64_t count, Codec codec, std::int64_t most) {
  const std::int64_t parts = (count + most - 1) / most;
  const std::int64_t blocks = (count + kBlock - 1) / kBlock;
  const std::int64_t part = (blocks + parts - 1) / parts * kBlock;
  for (std::int64_t at = 0; at < count; at += part) {
    out.push_back({offset + at, std::min(part, count - at), codec});
  }
}

std::vector<Bucket> cut(const Delta& delta, Codec fallback, std::int64_t most) {
  std::vector<Bucket> out;
  bool open = false;  // the last bucket may grow
  for (std::size_t i = 0; i < delta.entries().size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    const std::int64_t count = end_of(delta, i) - e.offset;
    if (count == 0) continue;
    const Codec codec = codec_of(delta, e, fallback);
    if (count > most) {
      append_parts(out, e.offset, count, codec, most);
      open = false;
    } else if (open && out.back().codec == codec &&
               out.back().count + count <= most) {
      out.back().count += count;
    } else {
      out.push_back({e.offset, count, codec});
      open = true;
    }
  }
  return out;
}

}  // namespace

std::vector<std::vector<int>> buckets_of_entries(
    const Delta& delta, std::span<const Bucket> buckets) {
  std::vector<std::vector<int>> out(delta.entries().size());
  std::vector<int> by_offset(buckets.size());
  std::iota(by_offset.begin(), by_offset.end(), 0);
  const auto bucket = [&](int b) {
    return buckets[static_cast<std::size_t>(b)];
  };
  std::ranges::sort(by_offset, {}, [&](int b) { return bucket(b).offset; });
  std::size_t first = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const DeltaEntry& e = delta.entries()[i];
    while (first < by_offset.size() &&
           bucket(by_offset[first]).offset + bucket(by_offset[first]).count <=
               e.offset) {
      ++first;
    }
    for (std::size_t b = first;
         b < by_offset.size() &&
         bucket(by_offset[b]).offset < e.offset + e.count;
         ++b) {
      out[i].push_back(by_offset[b]);
    }
  }
  return out;
}

std::vector<Bucket> plan_buckets(const Delta& delta, Codec codec,
                                 std::int64_t bytes,
                                 std::span<const int> order) {
  THINWIRE_ASSERT(bytes > 0, "{} bytes", bytes);
  const std::int64_t most =
      std::max(kBlock, bytes / static_cast<std::int64_t>(sizeof(float)));
  std::vector<Bucket> buckets = cut(delta, codec, most);
  THINWIRE_ASSERT(order.empty() || order.size() == delta.entries().size(),
                  "{} of {} entries ordered", order.size(),
                  delta.entries().size());
  std::vector<std::size_t> last(buckets.size(), 0);  // entry, by its place
  const auto holders = buckets_of_entries(delta, buckets);
  for (std::size_t place = 0; place < holders.size(); ++place) {
    const std::size_t entry = order.empty()
                                  ? holders.size() - 1 - place
                                  : static_cast<std::size_t>(order[place]);
    for (const int b : holders[entry]) {
      last[static_cast<std::size_t>(b)] = place;
    }
  }
  std::vector<std::size_t> sorted(buckets.size());
  std::iota(sorted.begin(), sorted.end(), 0);
  std::ranges::sort(sorted, {}, [&](std::size_t b) {
    // Parts of one entry are final together: the end of the vector goes first.
    return std::pair(last[b], -buckets[b].offset);
  });
  std::vector<Bucket> out;
  for (const std::size_t b : sorted) out.push_back(buckets[b]);
  return out;
}

std::vector<int> complete_order(const Delta& delta,
                                std::span<const int> reached) {
  const std::size_t n = delta.entries().size();
  constexpr std::size_t kUnknown = std::numeric_limits<std::size_t>::max();
  std::vector<std::size_t> rank(n, kUnknown);
  for (std::size_t i = 0; i < reached.size(); ++i) {
    rank.at(static_cast<std::size_t>(reached[i])) = i;
  }
  for (std::size_t i = n; i-- > 1;) {  // as the next one in the layout
    if (rank[i - 1] == kUnknown) rank[i - 1] = rank[i];
  }
  for (std::size_t i = 1; i < n; ++i) {
    if (rank[i] == kUnknown) rank[i] = rank[i - 1];
  }
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::sort(order, {}, [&](int e) {
    return std::pair(rank[static_cast<std::size_t>(e)], -e);
  });
  return order;
}

}  // namespace thinwire
