#include "dist/buffers.h"

#include <ATen/ops/empty_like.h>
#include <fmt/format.h>

#include <cstring>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

std::string saved_name(int rank, const std::string& name) {
  return fmt::format("buffer.{}.{}", rank, name);
}

std::string own_name(int rank, const std::string& name) {
  return fmt::format("rank.{}.{}", rank, name);
}

// Of ranks 0, 1, … as far as they were saved.
std::vector<at::Tensor> find_ranks(const NamedTensors& saved,
                                   const std::string& name) {
  std::vector<at::Tensor> found;
  for (int rank = 0;; ++rank) {
    const std::string wanted = saved_name(rank, name);
    const auto before = found.size();
    for (const auto& [key, tensor] : saved) {
      if (key == wanted) found.push_back(tensor);
    }
    if (found.size() == before) return found;
  }
}

NamedTensors gather(Communicator& comm, const NamedTensors& mine,
                    std::string (*named)(int, const std::string&)) {
  NamedTensors all;
  for (const auto& [name, tensor] : mine) {
    const at::Tensor own = tensor.contiguous();
    const auto bytes =
        comm.all_gather_v({static_cast<const std::byte*>(own.const_data_ptr()),
                           static_cast<std::size_t>(own.nbytes())},
                          {.tag = "buffers"});
    for (int rank = 0; rank < comm.size(); ++rank) {
      const auto& part = bytes[static_cast<std::size_t>(rank)];
      THINWIRE_ASSERT(part.size() == own.nbytes(), "{}: {} and {} bytes", name,
                      part.size(), own.nbytes());
      at::Tensor theirs = at::empty_like(own);
      std::memcpy(theirs.data_ptr(), part.data(), part.size());
      all.emplace_back(named(rank, name), theirs);
    }
  }
  return all;
}

}  // namespace

NamedTensors gather_buffers(Communicator& comm, const Delta& delta) {
  NamedTensors mine;
  for (const auto& [name, buffer] : delta.buffers()) {
    if (buffer.rule == BufferRule::kRankZero) continue;
    mine.emplace_back(name, buffer.tensor);
  }
  return gather(comm, mine, &saved_name);
}

NamedTensors gather_ranks(Communicator& comm, const NamedTensors& mine) {
  return gather(comm, mine, &own_name);
}

NamedTensors of_rank(const NamedTensors& saved, int rank, int ranks,
                     const std::string& where) {
  const std::string mine = own_name(rank, ""), beyond = own_name(ranks, "");
  NamedTensors out;
  for (const auto& [name, tensor] : saved) {
    if (name.starts_with(mine)) {
      out.emplace_back(name.substr(mine.size()), tensor);
    }
    if (name.starts_with(beyond)) {
      fail<UsageError>(
          "{}: holds '{}', what more than {} ranks had each for itself; resume "
          "with as many ranks as before",
          where, name, ranks);
    }
  }
  return out;
}

at::Tensor find_state(const NamedTensors& saved, std::string_view name,
                      at::ScalarType type, std::int64_t count,
                      const std::string& where, std::string_view keys) {
  for (const auto& [key, tensor] : saved) {
    if (key != name) continue;
    if (tensor.scalar_type() != type || tensor.numel() != count) break;
    return tensor.contiguous();
  }
  fail<UsageError>(
      "{}: holds no '{}' of {} numbers for this rank; resume with as many "
      "ranks as before, and with {} as they were",
      where, name, count, keys);
}

void restore_buffers(const NamedTensors& saved, int rank, int ranks,
                     Delta& delta, const std::string& where) {
  for (auto& [name, buffer] : delta.buffers()) {
    if (buffer.rule == BufferRule::kRankZero) continue;
    const auto found = find_ranks(saved, name);
    if (found.empty()) {
      fail<UsageError>("{}: holds no buffer '{}'", where, name);
    }
    if (found.size() == static_cast<std::size_t>(ranks)) {
      buffer.tensor.copy_(found[static_cast<std::size_t>(rank)]);
      continue;
    }
    if (buffer.rule == BufferRule::kPerRank) {
      fail<UsageError>(
          "{}: buffer '{}' belongs to {} ranks; resume with as many, not {}",
          where, name, found.size(), ranks);
    }
    at::Tensor sum = found[0].clone();
    for (std::size_t i = 1; i < found.size(); ++i) sum.add_(found[i]);
    if (buffer.rule == BufferRule::kMean) {
      sum.div_(static_cast<double>(found.size()));
    } else if (rank != 0) {
      sum.zero_();
    }
    buffer.tensor.copy_(sum);
  }
}

}  // namespace thinwire
