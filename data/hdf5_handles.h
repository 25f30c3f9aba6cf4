// HDF5's handles as owners, and its errors as exceptions. Internal to the files
// of data/ that enter the library.
#pragma once

#include <hdf5.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "base/handle.h"

namespace thinwire::hdf5 {

template <herr_t (*close)(hid_t)>
struct IdTraits {
  using type = hid_t;
  static type null() { return H5I_INVALID_HID; }
  static void release(type id) noexcept { close(id); }
};
using Dataset = UniqueHandle<IdTraits<H5Dclose>>;
using Space = UniqueHandle<IdTraits<H5Sclose>>;
using Type = UniqueHandle<IdTraits<H5Tclose>>;
using Properties = UniqueHandle<IdTraits<H5Pclose>>;
using Attribute = UniqueHandle<IdTraits<H5Aclose>>;

// The library prints by itself unless told not to, in each thread anew.
inline void silence() { H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr); }

inline herr_t keep_first(unsigned, const H5E_error2_t* error, void* out) {
  auto& text = *static_cast<std::string*>(out);
  if (text.empty() && error->desc != nullptr) text = error->desc;
  return 0;
}

// The library's deepest complaint, on one line.
inline std::string library_text() {
  std::string text;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, &keep_first, &text);
  H5Eclear2(H5E_DEFAULT);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.empty() ? "HDF5 gives no reason" : text;
}

template <class Result>
Result check(Result result, const std::string& path, const std::string& what) {
  if (result < 0) fail<IoError>("{}: {}: {}", path, what, library_text());
  return result;
}

}  // namespace thinwire::hdf5
