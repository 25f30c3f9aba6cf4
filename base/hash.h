// XXH3 digests: of names, tensors, layouts and files. For integrity and
// agreement between ranks, not against tampering.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace thinwire {

struct Digest {
  std::uint64_t low = 0, high = 0;
  auto operator<=>(const Digest&) const = default;
  std::string hex() const;  // 32 lower-case digits, high half first
  // Throws UsageError when text is not 32 hexadecimal digits.
  static Digest from_hex(std::string_view text);
};

std::uint64_t hash64(std::string_view bytes);
Digest hash128(std::span<const std::byte> bytes);

// Streaming XXH3-128. Strings and numbers are framed (length or width first),
// so that ("ab", "c") and ("a", "bc") differ.
class Hasher {
 public:
  Hasher();
  ~Hasher();
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;

  Hasher& bytes(std::span<const std::byte> data);  // unframed
  Hasher& string(std::string_view text);
  Hasher& number(std::int64_t value);
  Hasher& number(double value);
  Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Of a whole file, read in blocks. Throws IoError.
Digest hash_file(const std::string& path);

}  // namespace thinwire
