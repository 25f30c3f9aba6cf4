#include "models/host_store.h"

#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/temp_folder.h"
#include "models/backbone.h"
#include "models/safetensors.h"
#include "models/store_folder.h"
#include "tests/harness/golden.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

constexpr char kConfig[] = R"({"model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"], "vocab_size": 300,
    "d_model": 16, "d_kv": 6, "num_heads": 2, "d_ff": 24, "num_layers": 2,
    "num_decoder_layers": 1, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu", "tie_word_embeddings": true,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0})";

class HostStoreTest : public testing::Test {
 protected:
  HostStoreTest() {
    fs::create_directories(folder_ / "cache");
    std::ofstream(folder_ / "config.json") << kConfig;
    config_ = read_model_config((folder_ / "config.json").string());
    write(at::kFloat);
  }

  // The model's file, its weights in this dtype on disk.
  void write(at::ScalarType dtype) {
    const auto model = random_backbone((folder_ / "config.json").string(), 1);
    const Parameters& p = model->parameters();
    NamedTensors tensors;
    for (int i = 0; i < p.size(); ++i) {
      tensors.emplace_back(p.slot(i).name, p.slot(i).frozen.to(dtype));
    }
    write_safetensors((folder_ / "model.safetensors").string(), tensors);
    source_ = open_weights(folder_.string(), config_);
    plan_ = plan_store(config_, *source_);
  }

  std::string cache() const { return (folder_ / "cache").string(); }
  std::string prepared() const { return (folder_ / "prepared").string(); }

  // By two writers, each half of the tensors.
  std::vector<Digest> prepare() {
    const std::string temporary = (folder_ / "t.tmp").string();
    StoreWriter first = StoreWriter::create(temporary, plan_);
    StoreWriter second = StoreWriter::join(temporary, plan_);
    std::vector<Digest> digests(plan_.tensors.size());
    const auto shares = deal(plan_, 2);
    for (const std::size_t i : shares[0]) digests[i] = first.fill(i, *source_);
    for (const std::size_t i : shares[1]) digests[i] = second.fill(i, *source_);
    EXPECT_FALSE(read_store(prepared(), plan_));
    first.publish(digests, prepared());
    EXPECT_FALSE(fs::exists(temporary));
    return digests;
  }

  void overwrite(const std::string& path, std::int64_t at, char byte) {
    fs::permissions(path, fs::perms::owner_write, fs::perm_options::add);
    std::fstream f(path, std::ios::binary | std::ios::in | std::ios::out);
    f.seekp(at);
    f.put(byte);
  }

  const TempFolder own_;
  const fs::path folder_{own_.path()};
  ModelConfig config_;
  std::shared_ptr<TensorSource> source_;
  StorePlan plan_;
};

TEST_F(HostStoreTest, PlansWhatTheBackboneAsksFor) {
  const auto model = load_backbone(folder_.string());
  EXPECT_EQ(static_cast<int>(plan_.tensors.size()), model->parameters().size());
  EXPECT_EQ(plan_.bytes, 4 * model->parameters().count());
  EXPECT_EQ(plan_.in_place, plan_.bytes);
  write(at::kBFloat16);
  EXPECT_EQ(plan_.in_place, 0);
  EXPECT_GT(plan_.file_bytes, plan_.bytes);
}

// T5 1.1 has a head of its own; a 1.0 checkpoint may hold a copy of the
// embedding, or none.
TEST_F(HostStoreTest, HeadsThatAreTiedAreOneTensor) {
  const std::string file = (folder_ / "model.safetensors").string();
  std::string untied = kConfig;
  untied.replace(untied.find(": true"), 6, ": false");
  for (const std::string& text : {std::string(kConfig), untied}) {
    std::ofstream(folder_ / "config.json") << text;
    config_ = read_model_config((folder_ / "config.json").string());
    NamedTensors tensors;
    for (const char* head : {"none", "copy", "own"}) {
      write(at::kBFloat16);
      {
        const SafetensorsFile now(file);
        tensors.clear();
        for (const auto& name : now.names()) {
          if (name == "lm_head.weight") continue;
          tensors.emplace_back(name, now.tensor(name).clone());
        }
      }
      const at::Tensor shared = SafetensorsFile(file).tensor("shared.weight");
      if (head[0] == 'c')
        tensors.emplace_back("lm_head.weight", shared.clone());
      if (head[0] == 'o') {
        tensors.emplace_back("lm_head.weight", shared.add(1));
      }
      write_safetensors(file, tensors);
      source_ = open_weights(folder_.string(), config_);
      plan_ = plan_store(config_, *source_);
      fs::remove(prepared());
      prepare();
      const auto store = open_store(prepared(), plan_, source_);
      const auto from_store = make_backbone(config_, *store);
      const Parameters& p = from_store->parameters();
      EXPECT_EQ(p.find("lm_head.weight") >= 0, head[0] == 'o') << head;
      EXPECT_EQ(p.identity(),
                load_backbone(folder_.string())->parameters().identity())
          << head;
    }
    // Random weights: by what the config says.
    const auto random = random_source(3);
    const StorePlan plan = plan_store(config_, *random);
    EXPECT_EQ(plan.bytes,
              4 * make_backbone(config_, *random)->parameters().count());
  }
}

TEST_F(HostStoreTest, SharesCoverEverythingEvenly) {
  for (const int workers : {1, 2, 3, 100}) {
    std::vector<int> seen(plan_.tensors.size(), 0);
    for (const auto& share : deal(plan_, workers)) {
      for (const std::size_t i : share) ++seen[i];
    }
    EXPECT_EQ(std::ranges::count(seen, 1),
              static_cast<std::ptrdiff_t>(seen.size()));
  }
}

TEST_F(HostStoreTest, PreparedEqualsTheSource) {
  write(at::kBFloat16);
  const auto digests = prepare();
  const auto stated = read_store(prepared(), plan_);
  ASSERT_TRUE(stated);
  EXPECT_EQ(*stated, digests);
  const auto store = open_store(prepared(), plan_, source_);
  const auto from_store = make_backbone(config_, *store);
  const auto converted = load_backbone(folder_.string());
  const Parameters& a = from_store->parameters();
  const Parameters& b = converted->parameters();
  ASSERT_EQ(a.size(), b.size());
  for (int i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(a.slot(i).frozen.equal(b.slot(i).frozen)) << a.slot(i).name;
    EXPECT_EQ(
        reinterpret_cast<std::uintptr_t>(a.slot(i).frozen.const_data_ptr()) %
            4096,
        0u);
  }
  EXPECT_EQ(a.identity(), b.identity());
  EXPECT_EQ(identity_of(plan_, digests), a.identity());
}

// Vectors stay fp32. The numbers decide the identity, not the file's dtype.
TEST_F(HostStoreTest, Bf16MatricesAreHalfAsLarge) {
  Digest identities[2];
  for (const auto dtype : {at::kBFloat16, at::kFloat}) {
    write(at::kBFloat16);
    if (dtype == at::kFloat) {  // the same numbers, in a wider file
      const auto rounded = load_backbone(folder_.string());
      const Parameters& p = rounded->parameters();
      NamedTensors tensors;
      for (int i = 0; i < p.size(); ++i) {
        tensors.emplace_back(p.slot(i).name, p.slot(i).frozen.clone());
      }
      const auto wide = folder_ / "wide";
      fs::create_directories(wide);
      write_safetensors((wide / "model.safetensors").string(), tensors);
      source_ = open_weights(wide.string(), config_);
    }
    source_ = bf16_matrices(source_);
    plan_ = plan_store(config_, *source_);
    std::int64_t matrices = 0, all = 0;
    for (const StoreTensor& t : plan_.tensors) {
      EXPECT_EQ(t.dtype, t.shape.size() == 2 ? at::kBFloat16 : at::kFloat);
      if (t.shape.size() == 2) matrices += t.bytes;
      all += t.bytes;
    }
    EXPECT_EQ(plan_.bytes, all);
    EXPECT_EQ(plan_.in_place,
              dtype == at::kBFloat16 ? matrices : all - matrices);
    fs::remove(prepared());
    const auto digests = prepare();
    const auto from_store =
        make_backbone(config_, *open_store(prepared(), plan_, source_));
    const auto direct = make_backbone(config_, *source_);
    const Parameters& a = from_store->parameters();
    const Parameters& b = direct->parameters();
    for (int i = 0; i < a.size(); ++i) {
      EXPECT_TRUE(a.slot(i).frozen.equal(b.slot(i).frozen)) << a.slot(i).name;
    }
    EXPECT_EQ(a.identity(), identity_of(plan_, digests));
    identities[dtype == at::kFloat] = a.identity();
  }
  EXPECT_EQ(identities[0], identities[1]);
  EXPECT_NE(identities[0],
            load_backbone(folder_.string())->parameters().identity());
}

// Linear layers' matrices and their scales; what trains asks the files again.
TEST_F(HostStoreTest, Int8MatricesComeBackWithTheirScales) {
  // GPT-2's matrices lie [in, out].
  for (const std::string& model : {folder_.string(), golden_path("gpt2_lm")}) {
    SCOPED_TRACE(model);
    config_ = read_model_config(model);
    source_ = int8_matrices(open_weights(model, config_));
    plan_ = plan_store(config_, *source_);
    fs::remove(prepared());
    const auto digests = prepare();
    const auto store = open_store(prepared(), plan_, source_);
    const auto from_store = make_backbone(config_, *store);
    const auto direct = make_backbone(config_, *source_);
    Parameters& a = from_store->parameters();
    const Parameters& b = direct->parameters();
    int narrow = 0;
    std::int64_t bytes = 0;
    for (int i = 0; i < a.size(); ++i) {
      const Parameters::Slot &mine = a.slot(i), &other = b.slot(i);
      EXPECT_TRUE(mine.frozen.equal(other.frozen)) << mine.name;
      EXPECT_EQ(a.digest(i), digests[static_cast<std::size_t>(i)]);
      EXPECT_EQ(hash_stored(*store, plan_, static_cast<std::size_t>(i)),
                a.digest(i));
      bytes += a.loaded_bytes(i);
      if (!mine.scale.defined()) continue;
      ++narrow;
      EXPECT_TRUE(mine.scale.equal(other.scale)) << mine.name;
      EXPECT_TRUE(a.initial(i).equal(b.initial(i))) << mine.name;
    }
    EXPECT_GE(narrow, 8);
    EXPECT_EQ(plan_.bytes, bytes);
    EXPECT_EQ(a.identity(), b.identity());
    EXPECT_EQ(a.identity(), identity_of(plan_, digests));
  }
}

TEST_F(HostStoreTest, WritesStayPrivate) {
  prepare();
  const auto mine = open_store(prepared(), plan_, source_);
  const auto other = open_store(prepared(), plan_, source_);
  const StoreTensor& t = plan_.tensors.front();
  at::Tensor written = mine->get(t.names, t.shape, t.init);
  written.fill_(7);
  EXPECT_TRUE(other->get(t.names, t.shape, t.init)
                  .equal(source_->get(t.names, t.shape, t.init)));
}

TEST_F(HostStoreTest, DamageIsSeen) {
  const auto digests = prepare();
  const auto size = fs::file_size(prepared());
  const auto store = [&] { return open_store(prepared(), plan_, source_); };
  // The first byte of the last tensor, which starts a page.
  const std::size_t last = plan_.tensors.size() - 1;
  const std::int64_t pages = (plan_.tensors[last].bytes + 4095) / 4096;
  overwrite(prepared(), static_cast<std::int64_t>(size) - pages * 4096, 'x');
  EXPECT_EQ(hash_stored(*store(), plan_, 0), digests[0]);
  EXPECT_NE(hash_stored(*store(), plan_, last), digests[last]);

  overwrite(prepared(), 60, '~');  // in the header
  EXPECT_FALSE(read_store(prepared(), plan_));
  fs::remove(prepared());
  prepare();
  fs::resize_file(prepared(), size - 1);
  EXPECT_FALSE(read_store(prepared(), plan_));
  fs::resize_file(prepared(), 3);
  EXPECT_FALSE(read_store(prepared(), plan_));
  EXPECT_FALSE(read_store("absent", plan_));
}

TEST_F(HostStoreTest, AnotherPlanIsRefused) {
  prepare();
  StorePlan other = plan_;
  other.tensors.front().names.front() = "another.weight";
  EXPECT_FALSE(read_store(prepared(), other));
}

TEST_F(HostStoreTest, RecordsBelongToAStateOfTheFiles) {
  const auto folders = store_folders(cache());
  const std::string file = (folder_ / "model.safetensors").string();
  const FileState state = file_state(std::span(&file, 1));
  EXPECT_FALSE(load_record(folders, state.key, plan_));
  const auto digests = prepare();
  save_record(folders, state.key, plan_, digests);
  const auto known = load_record(folders, state.key, plan_);
  ASSERT_TRUE(known);
  EXPECT_EQ(*known, digests);

  overwrite(file, static_cast<std::int64_t>(fs::file_size(file)) - 1, 'x');
  EXPECT_NE(file_state(std::span(&file, 1)).key, state.key);
  EXPECT_TRUE(too_fresh(state, state.newest_ns + 1));
  EXPECT_FALSE(too_fresh(state, state.newest_ns + 1'000'000'000));

  // A damaged record is none.
  const std::string record = cache() + "/records/" + state.key.hex() + ".json";
  ASSERT_TRUE(fs::exists(record));
  overwrite(record, 60, 'z');
  EXPECT_FALSE(load_record(folders, state.key, plan_));
  const std::string absent = "absent";
  EXPECT_THROW(file_state(std::span(&absent, 1)), IoError);
}

TEST_F(HostStoreTest, FoldersThatOthersCanWriteAreRefused) {
  EXPECT_EQ(store_folders(cache()), std::vector{cache()});
  ::chmod(cache().c_str(), 0777);
  EXPECT_THROW(store_folders(cache()), UsageError);
  EXPECT_EQ(folder_with_room({}, 1), "");
  EXPECT_EQ(folder_with_room({{cache()}}, std::int64_t{1} << 60), "");
}

TEST_F(HostStoreTest, UnusedFilesMakeRoom) {
  const auto folders = store_folders(cache());
  const std::string old = prepared_path(cache(), Digest{1, 2});
  const std::string used = prepared_path(cache(), Digest{3, 4});
  for (const std::string& path : {old, used}) {
    std::ofstream(path) << "x";
    note_use(path);
  }
  const std::string mark = cache() + "/weights/" + Digest{1, 2}.hex() + ".used";
  fs::last_write_time(
      mark, fs::file_time_type::clock::now() - std::chrono::hours(24 * 40));
  EXPECT_EQ(folder_with_room(folders, 1), cache());
  EXPECT_FALSE(fs::exists(old));
  EXPECT_FALSE(fs::exists(mark));
  EXPECT_TRUE(fs::exists(used));
}

TEST_F(HostStoreTest, OneHoldsTheLock) {
  const auto folders = store_folders(cache());
  File lock = lock_store(cache(), 0);
  EXPECT_TRUE(lock);
  EXPECT_FALSE(lock_store(cache(), 0));
  lock.reset();
  EXPECT_TRUE(lock_store(cache(), 0));
}

}  // namespace
}  // namespace thinwire
