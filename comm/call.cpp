#include "comm/call.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace thinwire {
namespace {

std::size_t piece_count(std::size_t bytes, std::size_t piece_bytes) {
  return std::max<std::size_t>(1, (bytes + piece_bytes - 1) / piece_bytes);
}

template <class Byte>
std::span<Byte> piece(std::span<Byte> data, std::size_t i,
                      std::size_t piece_bytes) {
  const std::size_t begin = i * piece_bytes;
  return data.subspan(begin, std::min(piece_bytes, data.size() - begin));
}

}  // namespace

Call::Call(Transport& transport, CallKind kind, std::uint32_t number,
           std::string_view tag, double timeout_seconds, ByteCount& bytes)
    : transport_(transport),
      kind_(kind),
      number_(number),
      longest_(transport.max_message_bytes()),
      tag_(tag),
      timeout_seconds_(timeout_seconds),
      deadline_(SteadyClock::now() +
                std::chrono::duration_cast<SteadyClock::duration>(
                    std::chrono::duration<double>(timeout_seconds))),
      bytes_(bytes),
      status_(name_of(kind), tag, number) {}

std::string Call::name() const {
  const auto kind = name_of(kind_);
  return tag_.empty() ? std::string(kind) : fmt::format("{} '{}'", kind, tag_);
}

void Call::raise(const std::string& what) {
  const std::string text = fmt::format("{}: {}", name(), what);
  transport_.stop(text);
  throw CommError(text);
}

Call::Pending Call::start_send(int to, std::span<const std::byte> data) {
  THINWIRE_ASSERT(data.size() <= longest_, "{} bytes", data.size());
  Pending pending(this, transport_.send(to, call_tag(kind_, number_), data));
  bytes_.sent += static_cast<std::int64_t>(data.size());
  return pending;
}

Call::Pending Call::start_receive(int from, std::span<std::byte> data) {
  THINWIRE_ASSERT(data.size() <= longest_, "{} bytes", data.size());
  return Pending(this, transport_.receive(from, data));
}

void Call::finish(Ticket& ticket) {
  const MessageResult result = transport_.wait(ticket, deadline_);
  switch (result.status) {
    case MessageResult::Status::kDone:
      break;
    case MessageResult::Status::kTimeout: {
      const std::string blame = transport_.blame(ticket.peer, false);
      transport_.abandon(ticket);
      raise(fmt::format(
          "timed out after {:.1f} s: rank {} waited for rank {}{}{}",
          timeout_seconds_, rank(), ticket.peer, blame.empty() ? "" : "; ",
          blame));
    }
    case MessageResult::Status::kFailed:
      transport_.abandon(ticket);
      raise(fmt::format("rank {} waited for rank {}, but {}", rank(),
                        ticket.peer, result.text));
  }
  if (!ticket.receives) return;
  if (result.tag != call_tag(kind_, number_)) {
    const std::string blame = transport_.blame(ticket.peer, true);
    raise(fmt::format(
        "the ranks do not make the same calls: rank {} is in {}, "
        "rank {} in {}{}{}",
        rank(), describe(call_tag(kind_, number_)), ticket.peer,
        describe(result.tag, number_), blame.empty() ? "" : "; ", blame));
  }
  if (result.bytes != ticket.size) {
    raise(
        fmt::format("the ranks do not pass the same size: rank {} expected a "
                    "message of {} bytes from rank {}, got {}",
                    rank(), ticket.size, ticket.peer, result.bytes));
  }
  bytes_.received += static_cast<std::int64_t>(result.bytes);
}

void Call::send(int to, std::span<const std::byte> data) {
  move(to, data, piece_count(data.size(), longest_), 0, {}, 0);
}

void Call::receive(int from, std::span<std::byte> data) {
  move(0, {}, 0, from, data, piece_count(data.size(), longest_));
}

void Call::exchange(int to, std::span<const std::byte> out, int from,
                    std::span<std::byte> in) {
  move(to, out, piece_count(out.size(), longest_), from, in,
       piece_count(in.size(), longest_));
}

// Two messages each way are in flight, so that the next is under way when one
// is done.
void Call::move(int to, std::span<const std::byte> out, std::size_t outs,
                int from, std::span<std::byte> in, std::size_t ins) {
  Pending received[2], sent[2];
  const std::size_t pieces = std::max(outs, ins);
  for (std::size_t i = 0; i < pieces + 2; ++i) {
    received[i % 2].wait();
    sent[i % 2].wait();
    if (i < ins) received[i % 2] = start_receive(from, piece(in, i, longest_));
    if (i < outs) sent[i % 2] = start_send(to, piece(out, i, longest_));
  }
}

}  // namespace thinwire
