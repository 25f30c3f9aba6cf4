// Scalars for TensorBoard: an events file of TFRecord frames (length, masked
// CRC32C, protocol buffer, masked CRC32C), written without protobuf.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace thinwire {

class TensorboardWriter {
 public:
  // Makes folder/events.out.tfevents.SECONDS.HOST.PID. Throws IoError.
  explicit TensorboardWriter(const std::string& folder);
  void scalar(std::string_view tag, std::int64_t step, double value);
  void flush();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  void record(const std::string& event);

  std::unique_ptr<std::FILE, Close> file_;
};

// Castagnoli's CRC-32 (polynomial 0x1EDC6F41, reflected), as in RFC 3720.
std::uint32_t crc32c(std::string_view bytes);

}  // namespace thinwire
