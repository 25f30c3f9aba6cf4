#include "base/hash.h"

#include <xxhash.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

Digest to_digest(XXH128_hash_t h) { return {h.low64, h.high64}; }

}  // namespace

std::string Digest::hex() const {
  return fmt::format("{:016x}{:016x}", high, low);
}

Digest Digest::from_hex(std::string_view text) {
  Digest d;
  const auto half = [&](std::string_view part, std::uint64_t& out) {
    const auto r =
        std::from_chars(part.data(), part.data() + part.size(), out, 16);
    return r.ec == std::errc{} && r.ptr == part.data() + part.size();
  };
  if (text.size() != 32 || !half(text.substr(0, 16), d.high) ||
      !half(text.substr(16), d.low)) {
    fail<UsageError>("digest '{}' is not 32 hexadecimal digits", text);
  }
  return d;
}

std::uint64_t hash64(std::string_view bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

Digest hash128(std::span<const std::byte> bytes) {
  return to_digest(XXH3_128bits(bytes.data(), bytes.size()));
}

struct Hasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  State() { XXH3_128bits_reset(xxh); }
  ~State() { XXH3_freeState(xxh); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
};

Hasher::Hasher() : state_(std::make_unique<State>()) {}
Hasher::~Hasher() = default;
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;

Hasher& Hasher::bytes(std::span<const std::byte> data) {
  XXH3_128bits_update(state_->xxh, data.data(), data.size());
  return *this;
}

Hasher& Hasher::string(std::string_view text) {
  number(static_cast<std::int64_t>(text.size()));
  return bytes(std::as_bytes(std::span(text.data(), text.size())));
}

Hasher& Hasher::number(std::int64_t value) {
  return bytes(std::as_bytes(std::span(&value, 1)));
}

Hasher& Hasher::number(double value) {
  return bytes(std::as_bytes(std::span(&value, 1)));
}

Digest Hasher::digest() const {
  return to_digest(XXH3_128bits_digest(state_->xxh));
}

Digest hash_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail<IoError>("{}: cannot open: {}", path, std::strerror(errno));
  std::vector<char> block(1 << 20);
  Hasher hasher;
  while (in) {
    in.read(block.data(), static_cast<std::streamsize>(block.size()));
    hasher.bytes(std::as_bytes(
        std::span(block.data(), static_cast<std::size_t>(in.gcount()))));
  }
  if (in.bad())
    fail<IoError>("{}: read failed: {}", path, std::strerror(errno));
  return hasher.digest();
}

}  // namespace thinwire
