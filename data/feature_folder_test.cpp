// A folder of features gives back what was put into it, or says what is wrong.
#include "data/feature_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/temp_folder.h"
#include "data/chunked.h"
#include "data/loader.h"
#include "data/testing.h"

namespace thinwire {
namespace {

using ::testing::HasSubstr;
using ::thinwire::testing::golden;
using ::thinwire::testing::read_bytes;
using ::thinwire::testing::write_bytes;

std::shared_ptr<const ShardFolder> samples() {
  static const auto opened = open_shard_folder(golden("shards_text"));
  return opened;
}

// Of unequal lengths, that of every seventh above a chunk's.
Features made(const Sample& s) {
  Features out{.source = s.id * 31 + 7, .values = {}};
  const std::uint64_t n = 3 + s.id % 11 + (s.id % 7 == 0 ? 40000 : 0);
  for (std::uint64_t i = 0; i < n; ++i) {
    out.values.push_back(static_cast<std::uint16_t>(s.id * 257 + i * i));
  }
  return out;
}

class Written {
 public:
  explicit Written(std::int64_t file_samples) {
    index_ = {.backbone = "b",
              .data = samples()->digest().hex(),
              .layers = "encoder 0",
              .samples = samples()->index().samples,
              .file_samples = file_samples,
              .file_bytes = {}};
    for (std::int64_t i = 0; i < index_.files(); ++i) {
      std::vector<FeatureRecord> records;
      for (const Sample& s :
           samples()->read(i * file_samples, index_.samples_in(i))) {
        records.push_back({feature_key(s), made(s)});
      }
      const std::string bytes = feature_file(records);
      EXPECT_EQ(feature_file(records), bytes);  // of nothing else
      write_bytes(file(i), bytes);
      index_.file_bytes.push_back(std::ssize(bytes));
    }
    write_index(index_);
  }

  const std::string& path() const { return folder_.path(); }
  std::string file(std::int64_t i) const {
    return feature_file_path(folder_.path(), i);
  }
  const FeatureIndex& index() const { return index_; }
  void write_index(const FeatureIndex& index) const {
    write_bytes(feature_index_path(path()), to_text(index));
  }

 private:
  TempFolder folder_;
  FeatureIndex index_;
};

void expect_made(const Sample& s) {
  const Features want = made(s);
  EXPECT_EQ(s.features.source, want.source) << s.id;
  EXPECT_TRUE(s.features.values == want.values) << s.id;
}

TEST(FeatureFolder, GivesBackWhatWasPutIntoIt) {
  for (const std::int64_t file_samples : {1000, 64, 7}) {
    const Written written(file_samples);
    const FeatureFolder folder(written.path());
    EXPECT_EQ(folder.index().bytes(), written.index().bytes());
    EXPECT_EQ(folder.index().layers, "encoder 0");
    for (Sample s : samples()->read(0, samples()->index().samples)) {
      folder.add_to(s);
      expect_made(s);
    }
  }
}

TEST(FeatureFolder, TheLoaderBringsThemAlong) {
  const Written written(50);
  const auto folder = std::make_shared<const FeatureFolder>(written.path());
  LoaderOptions options;
  options.batch_size = 16;
  const auto plain = make_loader(samples(), options);
  const auto loader = make_loader(samples(), options);
  for (int i = 0; i < 3; ++i) {  // some of what follows is queued already
    EXPECT_TRUE(loader->next().samples.front().features.values.empty());
    plain->next();
  }
  loader->add_features(folder);
  const auto expect_next = [&] {
    const SampleBatch batch = loader->next(), want = plain->next();
    ASSERT_EQ(batch.first_position, want.first_position);
    for (std::size_t k = 0; k < batch.samples.size(); ++k) {
      EXPECT_EQ(batch.samples[k].id, want.samples[k].id);
      expect_made(batch.samples[k]);
    }
  };
  for (int i = 0; i < 20; ++i) expect_next();
  for (const std::uint64_t step : {2, 77}) {
    loader->seek(step);
    plain->seek(step);
    expect_next();
  }
  loader->add_features(folder);  // where it is
  expect_next();
}

TEST(FeatureFolder, ASampleOfOtherDataIsNotThere) {
  const Written written(50);
  const FeatureFolder folder(written.path());
  Sample other;
  other.id = 123456789;
  try {
    folder.add_to(other);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_THAT(e.what(), HasSubstr("has no features of sample 123456789"));
  }
  Sample task = samples()->read(0, 1)[0];
  task.salt = std::uint64_t{5} << 40;  // of another task of the run
  EXPECT_THROW(folder.add_to(task), UsageError);
}

template <class E>
std::string refusal(const std::string& path) {
  try {
    const FeatureFolder folder(path);
  } catch (const E& e) {
    return e.what();
  }
  return "";
}

TEST(FeatureFolder, IsNotOpenedUnlessWhole) {
  const Written written(50);
  FeatureIndex begun = written.index();
  begun.file_bytes.clear();
  written.write_index(begun);
  EXPECT_THAT(refusal<UsageError>(written.path()), HasSubstr("not complete"));

  FeatureIndex fewer = written.index();
  fewer.file_bytes.pop_back();
  written.write_index(fewer);
  EXPECT_THAT(refusal<UsageError>(written.path()), HasSubstr("samples fill"));

  written.write_index(written.index());
  const std::string whole = read_bytes(written.file(1));
  write_bytes(written.file(1), whole.substr(0, whole.size() / 2));
  EXPECT_THAT(refusal<IoError>(written.path()),
              HasSubstr("features are missing"));
  std::filesystem::remove(written.file(1));
  EXPECT_THAT(refusal<IoError>(written.path()), HasSubstr("features-00001.h5"));
  // Of the same size, but another file's.
  write_bytes(written.file(1), std::string(whole.size(), 'x'));
  EXPECT_THAT(refusal<IoError>(written.path()), HasSubstr("HDF5"));
  write_bytes(written.file(1), whole);
  EXPECT_EQ(refusal<Error>(written.path()), "");
}

TEST(FeatureFolder, AnIndexThatIsNoneIsRefused) {
  const Written written(50);
  const std::string path = feature_index_path(written.path());
  const std::string good = read_bytes(path);
  const auto with = [&](auto edit) {
    auto json = nlohmann::json::parse(good);
    edit(json);
    write_bytes(path, json.dump());
    return refusal<UsageError>(written.path());
  };
  EXPECT_THAT(with([](auto& j) { j["version"] = 2; }),
              HasSubstr("feature format version 2, this program reads 1"));
  EXPECT_THAT(with([](auto& j) { j["format"] = "thinwire-shards"; }),
              HasSubstr("is not thinwire-features"));
  EXPECT_THAT(with([](auto& j) { j.erase("backbone"); }),
              HasSubstr("has no 'backbone'"));
  EXPECT_THAT(with([](auto& j) { j["file_samples"] = 0; }),
              HasSubstr("'file_samples' must be"));
  EXPECT_THAT(with([](auto& j) { j["file_bytes"][0] = -1; }),
              HasSubstr("'file_bytes'"));
  write_bytes(path, good.substr(0, good.size() / 2));
  EXPECT_THAT(refusal<IoError>(written.path()), HasSubstr("not a JSON object"));
}

// Every bit that a record is read from: noticed, never another number.
TEST(FeatureFolder, ADamagedChunkIsNoticed) {
  const Written written(100);
  const std::string whole = read_bytes(written.file(0));
  const auto layout = [&](const char* name, ElementType type) {
    const std::lock_guard lock(hdf5_mutex());
    return Hdf5File(written.file(0)).layout(name, type);
  };
  const DatasetLayout sets[] = {layout("values", ElementType::kUint16),
                                layout("offsets", ElementType::kInt64),
                                layout("key", ElementType::kUint64),
                                layout("source", ElementType::kUint64)};
  int flips = 0;
  for (const DatasetLayout& set : sets) {
    ASSERT_EQ(set.filters, std::vector{Filter::kFletcher32}) << set.name;
    for (const StoredChunk& c : set.chunks) {
      for (std::uint64_t i = 0; i < c.size; i += 1 + c.size / 15, ++flips) {
        std::string bytes = whole;
        bytes[c.address + i] =
            static_cast<char>(bytes[c.address + i] ^ (1 << (flips % 8)));
        write_bytes(written.file(0), bytes);
        bool noticed = false;
        try {
          const FeatureFolder folder(written.path());
          for (Sample s : samples()->read(0, 100)) folder.add_to(s);
        } catch (const IoError& e) {
          noticed = true;
          EXPECT_THAT(e.what(), HasSubstr("features-00000.h5: /" + set.name));
        }
        EXPECT_TRUE(noticed) << set.name << " byte " << i;
      }
    }
  }
  EXPECT_GT(flips, 150);
}

}  // namespace
}  // namespace thinwire
