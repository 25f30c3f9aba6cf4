#include "comm/communicator.h"

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "base/error.h"
#include "comm/all_reduce.h"
#include "comm/collectives.h"
#include "comm/combine.h"
#include "comm/mpi.h"
#include "comm/transport.h"

namespace thinwire {
namespace {

constexpr double kDefaultTimeoutSeconds = 120;

std::span<std::byte> bytes_of(at::Tensor& tensor, std::string_view op,
                              std::string_view tag) {
  if (!tensor.defined() || !tensor.device().is_cpu() ||
      !tensor.is_contiguous()) {
    fail<UsageError>("{} '{}': the tensor must be contiguous and on the CPU",
                     op, tag);
  }
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

class TransportCommunicator : public Communicator {
 public:
  explicit TransportCommunicator(std::unique_ptr<Transport> transport)
      : transport_(std::move(transport)), all_reduce_(*transport_, bytes_) {}

  // A rank that unwinds lets the others know, so that none waits for it.
  ~TransportCommunicator() override {
    if (std::uncaught_exceptions() > exceptions_) {
      transport_->stop("it left with an error");
    }
  }

  int rank() const noexcept override { return transport_->rank(); }
  int size() const noexcept override { return transport_->size(); }
  std::string_view backend() const noexcept override {
    return transport_->backend();
  }

  void all_reduce(at::Tensor& inout, ReduceOp op,
                  const OpOptions& options) override {
    const auto data = bytes_of(inout, "all_reduce", options.tag);
    const Element element = element_of(inout, options.tag);
    OpOptions bounded = options;
    bounded.timeout_seconds = timeout_of(options);
    all_reduce_.run(data, element, op, calls_++, bounded);
  }

  std::vector<std::vector<std::byte>> all_gather_v(
      std::span<const std::byte> in, const OpOptions& options) override {
    Call call = begin(CallKind::kAllGather, options);
    return thinwire::all_gather_v(call, in);
  }

  void broadcast(at::Tensor& inout, int root,
                 const OpOptions& options) override {
    check_root(root, options);
    const auto data = bytes_of(inout, "broadcast", options.tag);
    Call call = begin(CallKind::kBroadcast, options);
    thinwire::broadcast(call, data, root);
  }

  std::vector<std::byte> broadcast_bytes(std::span<const std::byte> in,
                                         int root,
                                         const OpOptions& options) override {
    check_root(root, options);
    Call call = begin(CallKind::kBroadcast, options);
    return thinwire::broadcast_bytes(call, in, root);
  }

  void barrier(const OpOptions& options) override {
    Call call = begin(CallKind::kBarrier, options);
    thinwire::barrier(call);
  }

  std::unique_ptr<Communicator> split(int color, int key,
                                      const OpOptions& options) override {
    auto child = make_communicator_over(split_transport(color, key, options));
    child->set_default_timeout_seconds(timeout_seconds_);
    return child;
  }

  std::unique_ptr<Transport> open_transport(const OpOptions& options) override {
    return split_transport(0, rank(), options);
  }
  void count(ByteCount moved) noexcept override {
    bytes_.sent += moved.sent;
    bytes_.received += moved.received;
  }
  void stop(std::string_view why) noexcept override { transport_->stop(why); }

  ByteCount bytes() const noexcept override { return bytes_; }
  double default_timeout_seconds() const noexcept override {
    return timeout_seconds_;
  }
  void set_default_timeout_seconds(double seconds) override {
    if (!(seconds > 0 && seconds <= 1e6)) {
      fail<UsageError>("the timeout must be in (0, 1e6] seconds, got {}",
                       seconds);
    }
    timeout_seconds_ = seconds;
  }

 private:
  double timeout_of(const OpOptions& options) const {
    return options.timeout_seconds > 0 ? options.timeout_seconds
                                       : timeout_seconds_;
  }
  Call begin(CallKind kind, const OpOptions& options) {
    return Call(*transport_, kind, calls_++, options.tag, timeout_of(options),
                bytes_);
  }

  std::unique_ptr<Transport> split_transport(int color, int key,
                                             const OpOptions& options) {
    Call call = begin(CallKind::kSplit, options);
    const int mine[2] = {color, key};
    const auto all =
        thinwire::all_gather_v(call, std::as_bytes(std::span(mine)));
    std::vector<std::pair<int, int>> members;  // (key, rank) of my colour
    for (int r = 0; r < size(); ++r) {
      int theirs[2];
      std::memcpy(theirs, all[static_cast<std::size_t>(r)].data(),
                  sizeof theirs);
      if (theirs[0] == color) members.emplace_back(theirs[1], r);
    }
    std::ranges::sort(members);
    std::vector<int> ranks;
    for (const auto& [place, rank] : members) ranks.push_back(rank);
    return transport_->split(calls_, color, ranks);
  }

  void check_root(int root, const OpOptions& options) const {
    if (root < 0 || root >= size()) {
      fail<UsageError>("broadcast '{}': root must be in [0, {}], got {}",
                       options.tag, size() - 1, root);
    }
  }

  std::unique_ptr<Transport> transport_;
  const int exceptions_ = std::uncaught_exceptions();
  std::uint32_t calls_ = 0;
  double timeout_seconds_ = kDefaultTimeoutSeconds;
  ByteCount bytes_;
  AllReduce all_reduce_;
};

}  // namespace

std::vector<int> hosts_of(const std::vector<int>& hosts,
                          std::span<const int> members) {
  std::vector<int> result;
  for (const int member : members) {
    const int host = hosts[static_cast<std::size_t>(member)];
    const auto first = std::ranges::find_if(members, [&](int other) {
      return hosts[static_cast<std::size_t>(other)] == host;
    });
    result.push_back(static_cast<int>(first - members.begin()));
  }
  return result;
}

std::unique_ptr<Communicator> make_communicator_over(
    std::unique_ptr<Transport> transport) {
  return std::make_unique<TransportCommunicator>(std::move(transport));
}

std::unique_ptr<Communicator> make_communicator(std::string_view backend) {
  if (backend == "auto") backend = started_by_mpi() ? "mpi" : "self";
  if (backend == "self") return make_communicator_over(make_self_transport());
  if (backend == "mpi") return make_communicator_over(make_mpi_transport());
  fail<UsageError>("backend '{}' is unknown; choose one of: auto, mpi, self",
                   backend);
}

}  // namespace thinwire
