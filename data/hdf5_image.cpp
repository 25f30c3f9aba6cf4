#include "data/hdf5_image.h"

#include <hdf5.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>
#include <utility>

#include "data/hdf5_handles.h"

namespace thinwire {
namespace {

using namespace hdf5;

constexpr std::size_t kGrowth = std::size_t{1} << 20;  // bytes at a time

const std::string kWhere = "HDF5 file in memory";

// The library keeps the file in a string of ours. (H5Fget_file_image would copy
// it, but its copy of a file of this version has a wrong checksum.)
void* resize(void*, std::size_t size, H5FD_file_image_op_t, void* bytes) {
  auto& to = *static_cast<std::string*>(bytes);
  try {
    to.resize(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  return to.data();
}
void* allocate(std::size_t size, H5FD_file_image_op_t op, void* bytes) {
  return resize(nullptr, size, op, bytes);
}
herr_t release(void*, H5FD_file_image_op_t, void*) { return 0; }
void* same(void* bytes) { return bytes; }
herr_t keep(void*) { return 0; }

}  // namespace

Hdf5Image::Hdf5Image() {
  const std::lock_guard lock(hdf5_mutex());
  silence();
  const Properties access(
      check(H5Pcreate(H5P_FILE_ACCESS), kWhere, "properties"));
  check(H5Pset_fapl_core(access.get(), kGrowth, /*backing_store=*/false),
        kWhere, "memory");
  H5FD_file_image_callbacks_t memory{allocate, nullptr, resize, release,
                                     same,     keep,    &bytes_};
  check(H5Pset_file_image_callbacks(access.get(), &memory), kWhere, "memory");
  // Metadata of this version carries checksums.
  check(H5Pset_libver_bounds(access.get(), H5F_LIBVER_V110, H5F_LIBVER_V110),
        kWhere, "version");
  // The same bytes whenever it is written: the root group too keeps no times.
  const Properties creation(
      check(H5Pcreate(H5P_FILE_CREATE), kWhere, "properties"));
  check(H5Pset_obj_track_times(creation.get(), false), kWhere, "no times");
  // HDF5 tells files in memory apart by their names. Under the mutex.
  static std::uint64_t number = 0;
  const std::string name = std::to_string(number++);
  file_.reset(check(
      H5Fcreate(name.c_str(), H5F_ACC_TRUNC, creation.get(), access.get()),
      kWhere, "cannot begin"));
}

Hdf5Image::~Hdf5Image() {
  const std::lock_guard lock(hdf5_mutex());
  file_.reset();
}

void Hdf5Image::attribute(const std::string& name, std::int64_t value) {
  const std::lock_guard lock(hdf5_mutex());
  silence();
  const Space space(check(H5Screate(H5S_SCALAR), kWhere, name));
  const Attribute a(check(H5Acreate2(file_.get(), name.c_str(), H5T_STD_I64LE,
                                     space.get(), H5P_DEFAULT, H5P_DEFAULT),
                          kWhere, name));
  check(H5Awrite(a.get(), H5T_NATIVE_INT64, &value), kWhere, name);
}

void Hdf5Image::dataset(const std::string& name,
                        std::span<const std::uint16_t> values,
                        std::int64_t chunk) {
  write(name, H5T_STD_U16LE, values.data(), values.size(), chunk);
}
void Hdf5Image::dataset(const std::string& name,
                        std::span<const std::int64_t> values,
                        std::int64_t chunk) {
  write(name, H5T_STD_I64LE, values.data(), values.size(), chunk);
}
void Hdf5Image::dataset(const std::string& name,
                        std::span<const std::uint64_t> values,
                        std::int64_t chunk) {
  write(name, H5T_STD_U64LE, values.data(), values.size(), chunk);
}

void Hdf5Image::write(const std::string& name, std::int64_t type,
                      const void* values, std::size_t count,
                      std::int64_t chunk) {
  const std::lock_guard lock(hdf5_mutex());
  silence();
  const auto n = static_cast<hsize_t>(count);
  const Space space(check(H5Screate_simple(1, &n, nullptr), kWhere, name));
  const Properties properties(
      check(H5Pcreate(H5P_DATASET_CREATE), kWhere, name));
  check(H5Pset_obj_track_times(properties.get(), false), kWhere, name);
  if (n > 0) {
    const hsize_t size = std::min(n, static_cast<hsize_t>(chunk));
    check(H5Pset_chunk(properties.get(), 1, &size), kWhere, name);
    check(H5Pset_fletcher32(properties.get()), kWhere, name);
  }
  const Dataset set(
      check(H5Dcreate2(file_.get(), name.c_str(), type, space.get(),
                       H5P_DEFAULT, properties.get(), H5P_DEFAULT),
            kWhere, name));
  // Memory holds them as the file does.
  check(H5Dwrite(set.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values),
        kWhere, name);
}

std::string Hdf5Image::end() {
  const std::lock_guard lock(hdf5_mutex());
  silence();
  check(H5Fflush(file_.get(), H5F_SCOPE_LOCAL), kWhere, "cannot end");
  const ssize_t size =
      check(H5Fget_file_image(file_.get(), nullptr, 0), kWhere, "no size");
  check(H5Fclose(file_.detach()), kWhere, "cannot end");
  bytes_.resize(static_cast<std::size_t>(size));
  return std::move(bytes_);
}

}  // namespace thinwire
