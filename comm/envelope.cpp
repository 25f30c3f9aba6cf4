#include "comm/envelope.h"

#include <fmt/format.h>

#include <array>

namespace thinwire {
namespace {

constexpr std::array<std::string_view, 6> kKindNames = {
    "all_reduce", "all_gather_v", "broadcast", "barrier", "split", "exchange"};
constexpr int kNumberBits = 20;
constexpr int kFlightBits = 10;
static_assert((kKindNames.size() << kNumberBits) - 1 <= kMaxMessageTag);

constexpr std::uint64_t low(std::uint64_t value, int bits) {
  return value & ((std::uint64_t{1} << bits) - 1);
}

}  // namespace

std::string_view name_of(CallKind kind) noexcept {
  return kKindNames[static_cast<std::size_t>(kind)];
}

MessageTag call_tag(CallKind kind, std::uint32_t number) noexcept {
  return static_cast<MessageTag>(kind) << kNumberBits |
         static_cast<MessageTag>(low(number, kNumberBits));
}

MessageTag flight_tag(CallKind kind, std::uint64_t number,
                      std::size_t flight) noexcept {
  return static_cast<MessageTag>(kind) << kNumberBits |
         static_cast<MessageTag>(low(number, kNumberBits - kFlightBits)
                                     << kFlightBits |
                                 low(flight, kFlightBits));
}

bool same_call(MessageTag flight, MessageTag other) noexcept {
  return flight >> kFlightBits == other >> kFlightBits;
}

std::string describe(MessageTag tag, std::uint64_t near) {
  const std::size_t kind = tag >> kNumberBits;
  if (kind >= kKindNames.size())
    return fmt::format("an unknown call ({})", tag);
  const bool flies = kind == static_cast<std::size_t>(CallKind::kAllReduce) ||
                     kind == static_cast<std::size_t>(CallKind::kExchange);
  std::uint64_t number = low(tag, kNumberBits);
  if (flies) {
    constexpr std::uint64_t kWrap = 1u << (kNumberBits - kFlightBits);
    number >>= kFlightBits;
    // The nearest number with these low bits.
    const std::uint64_t ahead = (number - near) % kWrap;
    number = ahead <= kWrap / 2 || near + ahead < kWrap ? near + ahead
                                                        : near + ahead - kWrap;
  }
  return kind == static_cast<std::size_t>(CallKind::kExchange)
             ? fmt::format("exchange {}", number)
             : fmt::format("{} (call {})", kKindNames[kind], number);
}

}  // namespace thinwire
