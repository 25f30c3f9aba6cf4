// Datasets of every layout that a reader meets, made with the library itself.
#include "data/hdf5.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <filesystem>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/error.h"
#include "data/chunked.h"

namespace thinwire {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

struct Recipe {
  hsize_t count = 1000;
  hsize_t chunk = 0;                        // 0: contiguous
  std::function<void(hid_t)> filters = {};  // on the creation properties
  hid_t type = H5T_STD_I32LE;
  bool write = true;
};

class Hdf5FileTest : public ::testing::Test {
 protected:
  Hdf5FileTest() {
    std::random_device random;
    path_ = (std::filesystem::temp_directory_path() /
             ("thinwire-hdf5-" + std::to_string(random()) + ".h5"))
                .string();
  }
  ~Hdf5FileTest() override { std::filesystem::remove(path_); }

  // A file with one dataset "x" of 0, 1, 2, …
  void make(const Recipe& r) {
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
    const hid_t file =
        H5Fcreate(path_.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    const hid_t space = H5Screate_simple(1, &r.count, nullptr);
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    if (r.chunk != 0) H5Pset_chunk(properties, 1, &r.chunk);
    if (r.filters) r.filters(properties);
    const hid_t set = H5Dcreate2(file, "x", r.type, space, H5P_DEFAULT,
                                 properties, H5P_DEFAULT);
    ASSERT_GE(set, 0);
    if (r.write) {
      std::vector<std::int32_t> data(r.count);
      std::iota(data.begin(), data.end(), 0);
      ASSERT_GE(H5Dwrite(set, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                         data.data()),
                0);
    }
    H5Dclose(set);
    H5Pclose(properties);
    H5Sclose(space);
    H5Fclose(file);
  }

  DatasetLayout layout() const {
    return Hdf5File(path_).layout("x", ElementType::kInt32);
  }

  std::string error() const {
    try {
      layout();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  std::string path_;
};

TEST_F(Hdf5FileTest, ReadsEveryLayout) {
  const auto shuffle = [](hid_t p) { H5Pset_shuffle(p); };
  const auto deflate = [](hid_t p) { H5Pset_deflate(p, 6); };
  const auto fletcher = [](hid_t p) { H5Pset_fletcher32(p); };
  const auto all = [](hid_t p) {
    H5Pset_shuffle(p);
    H5Pset_deflate(p, 1);
    H5Pset_fletcher32(p);
  };
  const std::vector<Recipe> recipes = {
      {1000, 0, {}},       {1000, 64, {}},      {1000, 1000, {}},
      {1000, 64, shuffle}, {1000, 64, deflate}, {1000, 64, fletcher},
      {1000, 64, all},     {1000, 999, all},    {1, 1, all}};
  for (std::size_t k = 0; k < recipes.size(); ++k) {
    make(recipes[k]);
    const DatasetLayout l = layout();
    const Descriptor fd = open_file(path_);
    ChunkCursor cursor(path_, fd.get(), l);
    const auto count = static_cast<std::int64_t>(recipes[k].count);
    std::vector<std::int32_t> want(recipes[k].count);
    std::iota(want.begin(), want.end(), 0);
    EXPECT_EQ(cursor.read<std::int32_t>(0, count), want) << k;
    EXPECT_NO_THROW(cursor.verify()) << k;
    if (count > 700) {
      const std::vector<std::int32_t> part(want.begin() + 60,
                                           want.begin() + 700);
      EXPECT_EQ(cursor.read<std::int32_t>(60, 640), part) << k;
      EXPECT_EQ(cursor.read<std::int32_t>(7, 1).at(0), 7) << k;
    }
    EXPECT_THROW(cursor.read<std::int32_t>(1, count), IoError) << k;
    EXPECT_THROW(cursor.read<std::int32_t>(-1, 1), IoError) << k;
    // No allocation for what cannot be there.
    EXPECT_THROW(cursor.read<std::int32_t>(0, std::int64_t{1} << 60), IoError);
  }
}

TEST_F(Hdf5FileTest, NamesAFilterItDoesNotTakeAndItsPackage) {
  make({1000, 64, [](hid_t p) {
          H5Pset_filter(p, 32015, H5Z_FLAG_OPTIONAL, 0, nullptr);
        }});
  EXPECT_THAT(error(),
              AllOf(HasSubstr(path_), HasSubstr("/x"), HasSubstr("32015"),
                    HasSubstr("hdf5plugin"), HasSubstr("h5repack")));
}

TEST_F(Hdf5FileTest, RefusesOtherTypes) {
  make({10, 0, {}, H5T_STD_I32BE});
  EXPECT_THAT(error(), HasSubstr("little-endian int32"));
  make({10, 0, {}, H5T_STD_U32LE});
  EXPECT_THAT(error(), HasSubstr("little-endian int32"));
  make({10, 0, {}, H5T_IEEE_F32LE});
  EXPECT_THAT(error(), HasSubstr("little-endian int32"));
}

TEST_F(Hdf5FileTest, RefusesWhatTheFileCannotHold) {
  make({1000, 64, {}, H5T_STD_I32LE, false});
  EXPECT_THAT(error(), HasSubstr("never written"));
  make({1000, 0, {}, H5T_STD_I32LE, false});
  EXPECT_THAT(error(), HasSubstr("never written"));
  make({hsize_t{1} << 50, 64, {}, H5T_STD_I32LE, false});
  EXPECT_THAT(error(), HasSubstr("cannot hold"));
  make({hsize_t{1} << 30, hsize_t{1} << 28, {}, H5T_STD_I32LE, false});
  EXPECT_THAT(error(), HasSubstr("cannot hold"));
}

}  // namespace
}  // namespace thinwire
