// Facts of the format: 8-byte little-endian header length (at most 100 MB),
// a JSON object {name: {dtype, shape, data_offsets}}, optional "__metadata__"
// of strings, then the tensors' bytes without holes or overlap.
#include "models/safetensors_header.h"

#include <c10/core/ScalarType.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::uint64_t kMaxHeader = 100'000'000;
constexpr std::size_t kMaxRank = 32;

struct DtypeName {
  std::string_view name;
  at::ScalarType type;
};
constexpr DtypeName kDtypes[] = {
    {"F32", at::kFloat},  {"F16", at::kHalf},   {"BF16", at::kBFloat16},
    {"F64", at::kDouble}, {"I64", at::kLong},   {"I32", at::kInt},
    {"I16", at::kShort},  {"I8", at::kChar},    {"U8", at::kByte},
    {"U16", at::kUInt16}, {"U32", at::kUInt32}, {"U64", at::kUInt64},
    {"BOOL", at::kBool},
};

std::string known_dtypes() {
  std::string all;
  for (const auto& d : kDtypes) {
    all += all.empty() ? "" : " ";
    all += d.name;
  }
  return all;
}

// Takes the header as a stream of JSON events, so that a hostile header costs
// no more memory than the entries it names, and repeated keys are seen.
class HeaderEvents : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderEvents(const std::string& path, SafetensorsHeader& out)
      : path_(path), out_(out) {}

  bool start_object(std::size_t) override {
    switch (where_) {
      case Where::kStart:
        where_ = Where::kTop;
        return true;
      case Where::kEntryOpen:
        where_ = Where::kEntry;
        return true;
      case Where::kMetadataOpen:
        where_ = Where::kMetadata;
        return true;
      default:
        unexpected("an object");
    }
  }

  bool end_object() override {
    if (where_ == Where::kEntry) finish_entry();
    where_ = where_ == Where::kTop ? Where::kEnd : Where::kTop;
    return true;
  }

  bool key(string_t& text) override {
    if (where_ == Where::kTop) {
      if (text == "__metadata__") {
        if (saw_metadata_) bad("key '__metadata__' occurs twice");
        saw_metadata_ = true;
        where_ = Where::kMetadataOpen;
      } else {
        entry_ = {};
        entry_.name = std::move(text);
        fields_ = 0;
        where_ = Where::kEntryOpen;
      }
      return true;
    }
    field_ = std::move(text);
    if (where_ == Where::kMetadata) {
      if (out_.metadata.contains(field_)) {
        bad("metadata key '{}' occurs twice", field_);
      }
      where_ = Where::kMetadataValue;
      return true;
    }
    const unsigned bit = field_ == "dtype"          ? kDtypeField
                         : field_ == "shape"        ? kShapeField
                         : field_ == "data_offsets" ? kOffsetsField
                                                    : 0;
    if (bit == 0) {
      bad("tensor '{}' has an unknown field '{}' (known: dtype, shape, "
          "data_offsets)",
          entry_.name, field_);
    }
    if ((fields_ & bit) != 0) {
      bad("tensor '{}' has field '{}' twice", entry_.name, field_);
    }
    fields_ |= bit;
    where_ = bit == kDtypeField ? Where::kDtype : Where::kArrayOpen;
    return true;
  }

  bool string(string_t& text) override {
    if (where_ == Where::kMetadataValue) {
      out_.metadata.emplace(field_, std::move(text));
      where_ = Where::kMetadata;
      return true;
    }
    if (where_ != Where::kDtype) unexpected("a string");
    for (const auto& d : kDtypes) {
      if (text == d.name) entry_.dtype = d.type;
    }
    if (entry_.dtype == at::ScalarType::Undefined) {
      bad("tensor '{}' has dtype '{}', which is not supported (supported: {})",
          entry_.name, text, known_dtypes());
    }
    where_ = Where::kEntry;
    return true;
  }

  bool start_array(std::size_t) override {
    if (where_ != Where::kArrayOpen) unexpected("an array");
    where_ = field_ == "shape" ? Where::kShape : Where::kOffsets;
    offsets_seen_ = 0;
    return true;
  }

  bool end_array() override {
    if (where_ == Where::kOffsets && offsets_seen_ != 2) {
      bad("tensor '{}' has {} data_offsets instead of 2", entry_.name,
          offsets_seen_);
    }
    where_ = Where::kEntry;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (where_ == Where::kShape) {
      if (value > std::numeric_limits<std::int64_t>::max()) {
        bad("tensor '{}' has dimension {}, which overflows", entry_.name,
            value);
      }
      if (entry_.shape.size() == kMaxRank) {
        bad("tensor '{}' has more than {} dimensions", entry_.name, kMaxRank);
      }
      entry_.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (where_ != Where::kOffsets) unexpected("a number");
    if (offsets_seen_ == 0) entry_.begin = value;
    if (offsets_seen_ == 1) entry_.end = value;
    ++offsets_seen_;
    return true;
  }

  bool number_integer(number_integer_t value) override {
    if (where_ != Where::kShape && where_ != Where::kOffsets) {
      unexpected("a number");
    }
    bad("tensor '{}' has {} in {}; it must not be negative", entry_.name, value,
        field_);
  }
  bool number_float(number_float_t, const string_t& text) override {
    if (where_ != Where::kShape && where_ != Where::kOffsets) {
      unexpected("a number");
    }
    bad("tensor '{}' has {} in {}; it must be a 64-bit integer", entry_.name,
        text, field_);
  }
  bool null() override { unexpected("null"); }
  bool boolean(bool) override { unexpected("a boolean"); }
  bool binary(binary_t&) override { unexpected("binary data"); }
  bool parse_error(std::size_t at, const std::string&,
                   const nlohmann::json::exception& e) override {
    bad("the header is not valid JSON near byte {}: {}", at, e.what());
  }

 private:
  enum class Where {
    kStart,
    kTop,
    kEntryOpen,
    kEntry,
    kDtype,
    kArrayOpen,
    kShape,
    kOffsets,
    kMetadataOpen,
    kMetadata,
    kMetadataValue,
    kEnd
  };
  static constexpr unsigned kDtypeField = 1, kShapeField = 2, kOffsetsField = 4;

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) {
    fail<UsageError>("{}: {}", path_,
                     fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void unexpected(std::string_view what) {
    const bool inside = where_ == Where::kDtype ||
                        where_ == Where::kArrayOpen ||
                        where_ == Where::kShape || where_ == Where::kOffsets;
    if (inside || where_ == Where::kEntryOpen) {
      bad("tensor '{}' has {} where {} belongs", entry_.name, what,
          where_ == Where::kEntryOpen ? "{dtype, shape, data_offsets}"
          : where_ == Where::kDtype   ? "the dtype's name"
                                      : "a list of integers");
    }
    bad("the header has {} where {} belongs", what,
        where_ == Where::kStart ? "a JSON object"
                                : "a metadata text or object");
  }

  // Shape and size of one tensor, with every product checked.
  void finish_entry() {
    if (fields_ != (kDtypeField | kShapeField | kOffsetsField)) {
      bad("tensor '{}' lacks {}", entry_.name,
          (fields_ & kDtypeField) == 0   ? "dtype"
          : (fields_ & kShapeField) == 0 ? "shape"
                                         : "data_offsets");
    }
    // Strides are products too, so an empty tensor's other dimensions count.
    std::int64_t strides = 1;
    std::int64_t count = 1;
    const auto width =
        static_cast<std::int64_t>(c10::elementSize(entry_.dtype));
    bool overflow = false;
    for (const std::int64_t d : entry_.shape) {
      overflow |= __builtin_mul_overflow(strides, std::max<std::int64_t>(d, 1),
                                         &strides);
      count = overflow ? 0 : count * d;
    }
    std::int64_t bytes = 0;
    overflow |= __builtin_mul_overflow(strides, width, &bytes);
    if (overflow) {
      bad("tensor '{}' has shape [{}], whose size overflows", entry_.name,
          fmt::join(entry_.shape, ", "));
    }
    bytes = count * width;
    if (entry_.end < entry_.begin ||
        entry_.end - entry_.begin != static_cast<std::uint64_t>(bytes)) {
      bad("tensor '{}' has data_offsets [{}, {}] but its shape [{}] takes {} "
          "bytes",
          entry_.name, entry_.begin, entry_.end, fmt::join(entry_.shape, ", "),
          bytes);
    }
    out_.entries.push_back(std::move(entry_));
  }

  const std::string& path_;
  SafetensorsHeader& out_;
  Where where_ = Where::kStart;
  SafetensorsEntry entry_;
  std::string field_;
  unsigned fields_ = 0;
  int offsets_seen_ = 0;
  bool saw_metadata_ = false;
};

void check_names(const std::string& path, const SafetensorsHeader& header) {
  std::vector<std::string_view> names;
  names.reserve(header.entries.size());
  for (const auto& e : header.entries) names.push_back(e.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    fail<UsageError>("{}: two tensors are named '{}'", path, *twice);
  }
}

// The tensors tile the data exactly.
void check_offsets(const std::string& path, const SafetensorsHeader& header,
                   std::uint64_t data_size) {
  std::vector<const SafetensorsEntry*> order;
  order.reserve(header.entries.size());
  for (const auto& e : header.entries) order.push_back(&e);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->begin, a->end) < std::pair(b->begin, b->end);
  });
  std::uint64_t end = 0;
  for (const auto* e : order) {
    if (e->end > data_size) {
      fail<UsageError>(
          "{}: tensor '{}' ends at data byte {}, the file has {} (is it "
          "truncated?)",
          path, e->name, e->end, data_size);
    }
    if (e->begin < end) {
      fail<UsageError>("{}: tensor '{}' overlaps another at data byte {}", path,
                       e->name, e->begin);
    }
    if (e->begin > end) {
      fail<UsageError>("{}: {} bytes before tensor '{}' belong to no tensor",
                       path, e->begin - end, e->name);
    }
    end = e->end;
  }
  if (end != data_size) {
    fail<UsageError>("{}: {} trailing bytes belong to no tensor", path,
                     data_size - end);
  }
}

}  // namespace

SafetensorsHeader read_safetensors_header(const std::string& path,
                                          std::span<const std::byte> file) {
  std::uint64_t length = 0;
  if (file.size() < sizeof length) {
    fail<UsageError>(
        "{}: {} bytes are too few for a safetensors file (is it truncated?)",
        path, file.size());
  }
  std::memcpy(&length, file.data(), sizeof length);
  if (length > kMaxHeader) {
    fail<UsageError>(
        "{}: header length {} exceeds the format's limit of {} bytes (is this "
        "a safetensors file?)",
        path, length, kMaxHeader);
  }
  if (length > file.size() - sizeof length) {
    fail<UsageError>(
        "{}: header length {} exceeds the file's {} bytes (is it truncated?)",
        path, length, file.size());
  }
  SafetensorsHeader header;
  header.data_begin = sizeof length + length;
  const char* text = reinterpret_cast<const char*>(file.data()) + sizeof length;
  HeaderEvents events(path, header);
  nlohmann::json::sax_parse(text, text + length, &events);
  check_names(path, header);
  check_offsets(path, header, file.size() - header.data_begin);
  return header;
}

std::string_view safetensors_dtype_name(const std::string& path,
                                        std::string_view tensor,
                                        at::ScalarType dtype) {
  for (const auto& d : kDtypes) {
    if (d.type == dtype) return d.name;
  }
  fail<UsageError>("{}: tensor '{}' has dtype {}, which cannot be written ({})",
                   path, tensor, c10::toString(dtype), known_dtypes());
}

}  // namespace thinwire
