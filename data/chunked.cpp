#include "data/chunked.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace thinwire {

static_assert(std::endian::native == std::endian::little,
              "shards are little-endian and are read without conversion");

namespace {

constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // bytes

// Why the bytes are no good, or nullptr. `in` is left unspecified.
const char* inflate_into(const std::vector<unsigned char>& in,
                         std::vector<unsigned char>& out) {
  z_stream z{};
  if (inflateInit(&z) != Z_OK) return "zlib does not start";
  z.next_in = const_cast<unsigned char*>(in.data());
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  const int status = inflate(&z, Z_FINISH);
  const bool whole = status == Z_STREAM_END && z.avail_out == 0;
  inflateEnd(&z);
  return whole ? nullptr : "does not inflate to its size";
}

// Byte j of all elements lies together; put the elements together again.
void unshuffle(const unsigned char* in, std::size_t elements, std::size_t size,
               unsigned char* out) {
  for (std::size_t j = 0; j < size; ++j) {
    const unsigned char* plane = in + j * elements;
    for (std::size_t i = 0; i < elements; ++i) out[i * size + j] = plane[i];
  }
}

void pread_whole(int fd, unsigned char* out, std::uint64_t bytes,
                 std::uint64_t address, const std::string& path,
                 const std::string& name) {
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, out, bytes, static_cast<off_t>(address));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      fail<IoError>("{}: /{}: cannot read {} bytes at {}: {}", path, name,
                    bytes, address,
                    got < 0 ? std::strerror(errno) : "the file ends there");
    }
    out += got;
    bytes -= static_cast<std::uint64_t>(got);
    address += static_cast<std::uint64_t>(got);
  }
}

}  // namespace

void DescriptorTraits::release(type fd) noexcept { ::close(fd); }

Descriptor open_file(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) fail<IoError>("{}: cannot open: {}", path, std::strerror(errno));
  return fd;
}

std::uint32_t fletcher32(const unsigned char* data, std::size_t bytes) {
  // Sums modulo 65535 where a non-zero multiple is 65535, not 0. Blocks of
  // this many words keep the second sum below 2^64.
  constexpr std::size_t kWords = 1 << 20;
  std::uint64_t a = 0, b = 0;
  const auto reduce = [](std::uint64_t x) {
    return x == 0 ? 0 : (x - 1) % 65535 + 1;
  };
  std::size_t words = bytes / 2;
  while (words > 0) {
    const std::size_t n = std::min(words, kWords);
    for (std::size_t i = 0; i < n; ++i, data += 2) {
      a += static_cast<std::uint64_t>(data[0]) << 8 | data[1];
      b += a;
    }
    a = reduce(a);
    b = reduce(b);
    words -= n;
  }
  if (bytes % 2 != 0) {
    a = reduce(a + (static_cast<std::uint64_t>(data[0]) << 8));
    b = reduce(b + a);
  }
  return static_cast<std::uint32_t>(b << 16 | a);
}

void ChunkCursor::check_range(std::int64_t first, std::int64_t count) const {
  if (first < 0 || count < 0 || first > layout_->count ||
      count > layout_->count - first) {
    fail<IoError>("{}: /{}: elements [{}, {} + {}) are outside its {}", *path_,
                  layout_->name, first, first, count, layout_->count);
  }
}

void ChunkCursor::read_bytes(std::int64_t first, std::int64_t count,
                             std::size_t size, unsigned char* out) {
  THINWIRE_ASSERT(
      static_cast<std::int64_t>(size) == element_size(layout_->type),
      "{}: {} bytes asked for", layout_->name, size);
  check_range(first, count);
  const auto width = static_cast<std::int64_t>(size);
  if (layout_->filters.empty() && layout_->chunks.size() == 1) {
    return read_contiguous(first, count, out);
  }
  while (count > 0) {
    const std::int64_t chunk = first / layout_->chunk_elements;
    const std::int64_t at = first % layout_->chunk_elements;
    const std::int64_t n = std::min(count, layout_->chunk_elements - at);
    load(chunk);
    std::memcpy(out, data_.data() + at * width,
                static_cast<std::size_t>(n * width));
    out += n * width;
    first += n;
    count -= n;
  }
}

void ChunkCursor::read_contiguous(std::int64_t first, std::int64_t count,
                                  unsigned char* out) {
  const auto width = static_cast<std::uint64_t>(element_size(layout_->type));
  const std::uint64_t skip = static_cast<std::uint64_t>(first) * width;
  const std::uint64_t bytes = static_cast<std::uint64_t>(count) * width;
  pread_whole(fd_, out, bytes, layout_->chunks[0].address + skip, *path_,
              layout_->name);
}

void ChunkCursor::load(std::int64_t chunk) {
  if (chunk == loaded_) return;
  loaded_ = -1;
  const StoredChunk& c = layout_->chunks[static_cast<std::size_t>(chunk)];
  const auto width = static_cast<std::size_t>(element_size(layout_->type));
  const std::size_t whole =
      static_cast<std::size_t>(layout_->chunk_elements) * width;
  const auto bad = [&](const char* why) {
    fail<IoError>("{}: /{}: chunk {} at byte {}: {}", *path_, layout_->name,
                  chunk, c.address, why);
  };

  data_.resize(c.size);
  pread_whole(fd_, data_.data(), c.size, c.address, *path_, layout_->name);
  for (std::size_t i = layout_->filters.size(); i-- > 0;) {
    if (i < 32 && (c.skipped >> i & 1) != 0) continue;
    switch (layout_->filters[i]) {
      case Filter::kFletcher32: {
        if (data_.size() < 4) bad("too short for its checksum");
        const std::size_t n = data_.size() - 4;
        std::uint32_t stored = 0;
        std::memcpy(&stored, data_.data() + n, 4);
        if (fletcher32(data_.data(), n) != stored) {
          bad("checksum mismatch, the file is damaged");
        }
        data_.resize(n);
        break;
      }
      case Filter::kDeflate:
        scratch_.resize(whole);
        if (const char* why = inflate_into(data_, scratch_)) bad(why);
        data_.swap(scratch_);
        break;
      case Filter::kShuffle:
        if (data_.size() != whole) bad("has the wrong size");
        scratch_.resize(whole);
        unshuffle(data_.data(), whole / width, width, scratch_.data());
        data_.swap(scratch_);
        break;
    }
  }
  if (data_.size() != whole) bad("has the wrong size");
  loaded_ = chunk;
}

void ChunkCursor::verify() {
  if (layout_->filters.empty() && layout_->chunks.size() == 1) {
    const auto width = element_size(layout_->type);
    std::vector<unsigned char> block(kBlock);
    for (std::int64_t at = 0; at < layout_->count; at += kBlock / width) {
      read_contiguous(at, std::min(kBlock / width, layout_->count - at),
                      block.data());
    }
    return;
  }
  for (std::size_t i = 0; i < layout_->chunks.size(); ++i) {
    load(static_cast<std::int64_t>(i));
  }
}

}  // namespace thinwire
