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

}  // namespace

NamedTensors gather_buffers(Communicator& comm, const Delta& delta) {
  NamedTensors all;
  for (const auto& [name, buffer] : delta.buffers()) {
    if (buffer.rule == BufferRule::kRankZero) continue;
    const at::Tensor mine = buffer.tensor.contiguous();
    const auto bytes =
        comm.all_gather_v({static_cast<const std::byte*>(mine.const_data_ptr()),
                           static_cast<std::size_t>(mine.nbytes())},
                          {.tag = "buffers"});
    for (int rank = 0; rank < comm.size(); ++rank) {
      const auto& part = bytes[static_cast<std::size_t>(rank)];
      THINWIRE_ASSERT(part.size() == mine.nbytes(), "{}: {} and {} bytes", name,
                      part.size(), mine.nbytes());
      at::Tensor theirs = at::empty_like(mine);
      std::memcpy(theirs.data_ptr(), part.data(), part.size());
      all.emplace_back(saved_name(rank, name), theirs);
    }
  }
  return all;
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
