#include "data/hdf5.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>

#include "base/error.h"
#include "data/hdf5_handles.h"

namespace thinwire {
namespace {

using namespace hdf5;

// No chunk that we would have to inflate whole may be larger than this.
constexpr std::int64_t kMaxChunkBytes = std::int64_t{1} << 26;
// Deflate cannot expand by more than about 1032 : 1.
constexpr std::int64_t kMaxExpansion = 1100;

const char* type_name(ElementType type) {
  switch (type) {
    case ElementType::kUint8:
      return "uint8";
    case ElementType::kUint16:
      return "uint16";
    case ElementType::kInt32:
      return "int32";
    case ElementType::kInt64:
      return "int64";
    case ElementType::kUint64:
      return "uint64";
    case ElementType::kFloat64:
      return "float64";
  }
  return "?";
}

bool is_type(hid_t id, ElementType want) {
  if (static_cast<std::int64_t>(H5Tget_size(id)) != element_size(want)) {
    return false;
  }
  if (want != ElementType::kUint8 && H5Tget_order(id) != H5T_ORDER_LE) {
    return false;
  }
  if (want == ElementType::kFloat64) return H5Tget_class(id) == H5T_FLOAT;
  const bool is_signed =
      want == ElementType::kInt32 || want == ElementType::kInt64;
  return H5Tget_class(id) == H5T_INTEGER &&
         H5Tget_sign(id) == (is_signed ? H5T_SGN_2 : H5T_SGN_NONE);
}

std::string filter_package(int id) {
  switch (id) {
    case 32000:
    case 32004:
      return "package hdf5-filter-plugin";
    case 32001:
      return "package hdf5-filter-plugin-blosc-serial";
    case 32015:
      return "PyPI package hdf5plugin";
    default:
      return "its plugin";
  }
}

std::vector<Filter> read_filters(hid_t properties, const std::string& at) {
  std::vector<Filter> filters;
  const int n = H5Pget_nfilters(properties);
  for (int i = 0; i < n; ++i) {
    unsigned flags = 0, config = 0;
    std::size_t values = 0;
    char name[64] = "";
    const int id =
        H5Pget_filter2(properties, static_cast<unsigned>(i), &flags, &values,
                       nullptr, sizeof(name), name, &config);
    if (id == H5Z_FILTER_SHUFFLE) {
      filters.push_back(Filter::kShuffle);
    } else if (id == H5Z_FILTER_DEFLATE) {
      filters.push_back(Filter::kDeflate);
    } else if (id == H5Z_FILTER_FLETCHER32) {
      filters.push_back(Filter::kFletcher32);
    } else {
      name[sizeof(name) - 1] = '\0';
      fail<UsageError>(
          "{}: uses HDF5 filter {} '{}'; shards take shuffle, gzip and "
          "fletcher32 only ({}rewrite it with h5repack -f SHUF -f GZIP=1 -f "
          "FLET)",
          at, id, name,
          H5Zfilter_avail(id) > 0
              ? std::string()
              : fmt::format("install {}, then ", filter_package(id)));
    }
  }
  return filters;
}

}  // namespace

std::int64_t element_size(ElementType type) {
  switch (type) {
    case ElementType::kUint8:
      return 1;
    case ElementType::kUint16:
      return 2;
    case ElementType::kInt32:
      return 4;
    default:
      return 8;
  }
}

std::mutex& hdf5_mutex() {
  static std::mutex instance;
  return instance;
}

void Hdf5FileTraits::release(type id) noexcept { H5Fclose(id); }

Hdf5File::Hdf5File(const std::string& path) : path_(path) {
  silence();
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) fail<IoError>("{}: cannot open: {}", path, error.message());
  file_size_ = static_cast<std::int64_t>(size);
  file_.reset(check(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), path,
                    "not a whole HDF5 file"));
}

bool Hdf5File::has(const std::string& name) const {
  silence();
  for (std::size_t at = 0; at != std::string::npos;) {
    at = name.find('/', at + 1);
    const std::string part = name.substr(0, at);
    if (check(H5Lexists(file_.get(), part.c_str(), H5P_DEFAULT), path_, part) ==
        0) {
      return false;
    }
  }
  return true;
}

DatasetLayout Hdf5File::layout(const std::string& name,
                               ElementType type) const {
  silence();
  const std::string at = fmt::format("{}: /{}", path_, name);
  const Dataset set(check(H5Dopen2(file_.get(), name.c_str(), H5P_DEFAULT), at,
                          "cannot open"));
  const Type stored(check(H5Dget_type(set.get()), at, "no type"));
  if (!is_type(stored.get(), type)) {
    fail<UsageError>("{}: is not little-endian {}", at, type_name(type));
  }
  const Space space(check(H5Dget_space(set.get()), at, "no shape"));
  if (H5Sget_simple_extent_ndims(space.get()) != 1) {
    fail<UsageError>("{}: must have one dimension", at);
  }
  hsize_t count = 0;
  check(H5Sget_simple_extent_dims(space.get(), &count, nullptr), at, "shape");
  const Properties properties(
      check(H5Dget_create_plist(set.get()), at, "no layout"));

  DatasetLayout out;
  out.name = name;
  out.type = type;
  const std::int64_t size = element_size(type);
  // Bounds every product below; nothing true is near it.
  if (count > static_cast<hsize_t>(file_size_) * kMaxExpansion) {
    fail<IoError>("{}: claims {} elements, which {} bytes cannot hold", at,
                  count, file_size_);
  }
  out.count = static_cast<std::int64_t>(count);
  if (out.count == 0) {
    out.chunk_elements = 1;
    return out;
  }
  const H5D_layout_t kind = H5Pget_layout(properties.get());
  if (kind == H5D_CONTIGUOUS) {
    const haddr_t address = H5Dget_offset(set.get());
    if (address == HADDR_UNDEF) {
      fail<IoError>("{}: its data was never written", at);
    }
    out.chunk_elements = out.count;
    out.chunks.push_back(
        {address, static_cast<std::uint64_t>(out.count * size), 0});
  } else if (kind == H5D_CHUNKED) {
    hsize_t chunk = 0;
    if (H5Pget_chunk(properties.get(), 1, &chunk) != 1 || chunk == 0 ||
        chunk > static_cast<hsize_t>(kMaxChunkBytes / size)) {
      fail<IoError>("{}: a chunk must be 1 byte to {} MiB", at,
                    kMaxChunkBytes >> 20);
    }
    out.chunk_elements = static_cast<std::int64_t>(chunk);
    out.filters = read_filters(properties.get(), at);
    const std::int64_t n =
        (out.count + out.chunk_elements - 1) / out.chunk_elements;
    if (n > file_size_) {
      fail<IoError>("{}: claims {} chunks, which {} bytes cannot hold", at, n,
                    file_size_);
    }
    out.chunks.resize(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      const hsize_t first = static_cast<hsize_t>(i) * chunk;
      StoredChunk& c = out.chunks[static_cast<std::size_t>(i)];
      haddr_t address = HADDR_UNDEF;
      hsize_t bytes = 0;
      unsigned skipped = 0;
      check(H5Dget_chunk_info_by_coord(set.get(), &first, &skipped, &address,
                                       &bytes),
            at, "chunk table");
      if (address == HADDR_UNDEF) {
        fail<IoError>("{}: chunk {} was never written", at, i);
      }
      c = {address, bytes, skipped};
      if (static_cast<std::int64_t>(chunk) * size >
          kMaxExpansion * static_cast<std::int64_t>(std::min(
                              bytes, static_cast<hsize_t>(file_size_))) +
              64) {
        fail<IoError>("{}: chunk {} of {} bytes cannot hold {} elements", at, i,
                      bytes, chunk);
      }
    }
  } else {
    fail<UsageError>("{}: must be chunked or contiguous", at);
  }
  const auto end = static_cast<std::uint64_t>(file_size_);
  for (std::size_t i = 0; i < out.chunks.size(); ++i) {
    const StoredChunk& c = out.chunks[i];
    if (c.address > end || c.size > end - c.address) {
      fail<IoError>("{}: chunk {} at byte {} ends past the file's {} bytes", at,
                    i, c.address, end);
    }
  }
  return out;
}

std::int64_t Hdf5File::integer_attribute(const std::string& name) const {
  silence();
  const Attribute a(check(H5Aopen(file_.get(), name.c_str(), H5P_DEFAULT),
                          path_, "attribute " + name));
  const Space space(check(H5Aget_space(a.get()), path_, name));
  const Type stored(check(H5Aget_type(a.get()), path_, name));
  if (H5Sget_simple_extent_npoints(space.get()) != 1 ||
      H5Tget_class(stored.get()) != H5T_INTEGER) {
    fail<UsageError>("{}: attribute {} must be one integer", path_, name);
  }
  std::int64_t value = 0;
  check(H5Aread(a.get(), H5T_NATIVE_INT64, &value), path_, name);
  return value;
}

std::string Hdf5File::text_attribute(const std::string& name) const {
  silence();
  const Attribute a(check(H5Aopen(file_.get(), name.c_str(), H5P_DEFAULT),
                          path_, "attribute " + name));
  const Space space(check(H5Aget_space(a.get()), path_, name));
  const Type stored(check(H5Aget_type(a.get()), path_, name));
  const std::size_t size = H5Tget_size(stored.get());
  if (H5Sget_simple_extent_npoints(space.get()) != 1 ||
      H5Tget_class(stored.get()) != H5T_STRING ||
      H5Tis_variable_str(stored.get()) > 0 ||
      size > static_cast<std::size_t>(file_size_)) {
    fail<UsageError>("{}: attribute {} must be one text of fixed length", path_,
                     name);
  }
  std::string text(size, '\0');
  check(H5Aread(a.get(), stored.get(), text.data()), path_, name);
  text.resize(std::min(text.find('\0'), size));
  return text;
}

}  // namespace thinwire
