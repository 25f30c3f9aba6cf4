#include "launch/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace thinwire {
namespace {

double now_seconds() {
  return std::chrono::duration<double>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

template <class T>
std::string raw(T value) {
  static_assert(std::endian::native == std::endian::little);
  std::string out(sizeof value, '\0');
  std::memcpy(out.data(), &value, sizeof value);
  return out;
}

std::string varint(std::uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) {
    out += static_cast<char>(value | 0x80);
  }
  return out + static_cast<char>(value);
}

// Protocol buffer fields: (number << 3 | wire type), then the value.
std::string field_double(int number, double value) {
  return static_cast<char>(number << 3 | 1) + raw(value);
}
std::string field_float(int number, float value) {
  return static_cast<char>(number << 3 | 5) + raw(value);
}
std::string field_int(int number, std::int64_t value) {
  return static_cast<char>(number << 3) +
         varint(static_cast<std::uint64_t>(value));
}
std::string field_bytes(int number, std::string_view value) {
  return static_cast<char>(number << 3 | 2) + varint(value.size()) +
         std::string(value);
}

std::uint32_t masked(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  static const auto kTable = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) {
        value = value >> 1 ^ (value & 1 ? 0x82f63b78u : 0u);
      }
      table[i] = value;
    }
    return table;
  }();
  std::uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc = crc >> 8 ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  }
  return ~crc;
}

TensorboardWriter::TensorboardWriter(const std::string& folder) {
  std::array<char, 256> host{};
  gethostname(host.data(), host.size() - 1);
  const std::string path =
      (std::filesystem::path(folder) /
       fmt::format("events.out.tfevents.{}.{}.{}",
                   static_cast<std::int64_t>(now_seconds()), host.data(),
                   getpid()))
          .string();
  file_.reset(std::fopen(path.c_str(), "wb"));
  if (file_ == nullptr) {
    fail<IoError>("{}: cannot write: {}", path, std::strerror(errno));
  }
  record(field_double(1, now_seconds()) + field_bytes(3, "brain.Event:2"));
}

void TensorboardWriter::scalar(std::string_view tag, std::int64_t step,
                               double value) {
  const std::string summary = field_bytes(
      1, field_bytes(1, tag) + field_float(2, static_cast<float>(value)));
  record(field_double(1, now_seconds()) + field_int(2, step) +
         field_bytes(5, summary));
}

void TensorboardWriter::flush() { std::fflush(file_.get()); }

void TensorboardWriter::record(const std::string& event) {
  const std::string length = raw(static_cast<std::uint64_t>(event.size()));
  const std::string frame =
      length + raw(masked(length)) + event + raw(masked(event));
  std::fwrite(frame.data(), 1, frame.size(), file_.get());
}

}  // namespace thinwire
