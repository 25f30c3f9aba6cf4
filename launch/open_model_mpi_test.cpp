// One model on several ranks: its pages are shared, nobody is sent what its
// host has, hosts that lack it get it, and a rank with another one is named.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <span>
#include <string>

#include "base/error.h"
#include "base/temp_folder.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "launch/alike.h"
#include "launch/open_model.h"
#include "models/safetensors.h"
#include "models/store_folder.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// About 20 MB, half of it one tensor, like T5's.
constexpr char kConfig[] = R"({"model_type": "t5",
    "architectures": ["T5ForConditionalGeneration"], "vocab_size": 20000,
    "d_model": 128, "d_kv": 16, "num_heads": 8, "d_ff": 512, "num_layers": 8,
    "num_decoder_layers": 8, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16, "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu", "tie_word_embeddings": true,
    "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0})";

// This process's part of the memory that holds the weights: of every mapping
// with a tensor in it, one field of smaps, bytes. Nothing else lies there.
std::int64_t memory(const Backbone& backbone, const std::string& field) {
  const Parameters& p = backbone.parameters();
  std::ifstream in("/proc/self/smaps");
  std::string line;
  std::int64_t bytes = 0;
  bool holds = false;
  while (std::getline(in, line)) {
    std::uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      holds = false;
      for (int i = 0; i < p.size(); ++i) {
        const auto at =
            reinterpret_cast<std::uintptr_t>(p.slot(i).frozen.const_data_ptr());
        holds = holds || (at >= begin && at < end);
      }
    } else if (holds && line.starts_with(field + ":")) {
      bytes += 1024 * std::stoll(line.substr(field.size() + 1));
    }
  }
  return bytes;
}

double touch(const Backbone& backbone) {
  double sum = 0;
  const Parameters& p = backbone.parameters();
  for (int i = 0; i < p.size(); ++i) {
    const at::Tensor& t = p.slot(i).frozen;
    const float* data = t.const_data_ptr<float>();
    for (std::int64_t k = 0; k < t.numel(); k += 256) sum += data[k];
  }
  return sum;
}

class OpenModelTest : public testing::Test {
 protected:
  OpenModelTest() : comm_(make_communicator("mpi")) {
    if (comm_->rank() == 0) own_.emplace();
    const std::string name = own_ ? own_->path() : "";
    const auto all = comm_->broadcast_bytes(std::as_bytes(std::span(name)), 0);
    folder_ =
        std::string(reinterpret_cast<const char*>(all.data()), all.size());
    choice_.path = (folder_ / "model").string();
    choice_.cache = cache(0);
  }
  ~OpenModelTest() override {
    comm_->barrier();  // before rank 0 removes the folder
    ::unsetenv("THINWIRE_HOST");
  }

  std::string cache(int host) const {
    return (folder_ / fmt::format("cache{}", host)).string();
  }

  // Rank 0 writes; the state of the files has settled when this returns.
  void write(const std::string& path, at::ScalarType dtype, float add = 0) {
    if (comm_->rank() == 0) {
      fs::create_directories(path);
      std::ofstream(fs::path(path) / "config.json") << kConfig;
      const auto model =
          random_backbone((fs::path(path) / "config.json").string(), 1);
      const Parameters& p = model->parameters();
      NamedTensors tensors;
      for (int i = 0; i < p.size(); ++i) {
        tensors.emplace_back(p.slot(i).name, p.slot(i).frozen.to(dtype));
      }
      if (add != 0) tensors.back().second.add_(add);
      const std::string file = (fs::path(path) / "model.safetensors").string();
      write_safetensors(file, tensors);
      const FileState state = file_state(std::span(&file, 1));
      while (too_fresh(state, wall_clock_ns())) ::usleep(1000);
    }
    comm_->barrier();
  }

  OpenModel open() { return open_model(choice_, *comm_); }

  // What this rank receives to open the model.
  std::int64_t received(const std::function<OpenModel()>& f) {
    const std::int64_t before = comm_->bytes().received;
    const OpenModel model = f();
    return comm_->bytes().received - before + model.received_bytes;
  }

  std::string error() {
    try {
      open();
    } catch (const UsageError& e) {
      return e.what();
    } catch (const IoError& e) {
      return e.what();
    } catch (const FailedElsewhere& e) {
      return e.what();
    }
    return "no error";
  }

  std::unique_ptr<Communicator> comm_;
  std::optional<TempFolder> own_;  // rank 0's
  fs::path folder_;
  ModelChoice choice_;
};

TEST_F(OpenModelTest, RanksOfAHostShareThePages) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    write(choice_.path, dtype);
    OpenModel model = open();
    const double sum = touch(*model.backbone);
    comm_->barrier();
    const std::int64_t mine = memory(*model.backbone, "Pss");
    comm_->barrier();
    const std::int64_t bytes = 4 * model.backbone->parameters().count();
    ASSERT_GT(bytes, 15 << 20);
    // A page of its own for each tensor; shares are rounded by the page.
    const bool alone = comm_->size() == 1 && dtype != at::kFloat;
    if (!alone) {
      EXPECT_LT(mine, bytes / comm_->size() + (1 << 20)) << dtype;
      EXPECT_GT(mine, bytes / comm_->size() - (1 << 20)) << dtype;
    }
    if (comm_->size() > 1) {
      EXPECT_EQ(model.shared_bytes, bytes);
      EXPECT_EQ(model.private_bytes, 0);
    }

    // Written into, a tensor becomes this rank's own, and nothing else does.
    // Not Private_Dirty: of that are pages of the file not yet on disk.
    const auto own = [&] { return memory(*model.backbone, "Anonymous"); };
    const std::int64_t before = own();
    at::Tensor written = model.backbone->parameters().slot(3).frozen;
    if (comm_->rank() == 0) written.fill_(1);
    const auto wrote =
        static_cast<std::int64_t>(comm_->rank() == 0 ? written.nbytes() : 0);
    if (!alone) {
      EXPECT_GE(own() - before, wrote);
      EXPECT_LE(own() - before,
                wrote + 8192);  // two pages that it has parts of
    }
    comm_->barrier();
    EXPECT_TRUE(comm_->rank() == 0 || touch(*model.backbone) == sum);
    EXPECT_EQ(touch(*open().backbone), sum);
    comm_->barrier();
  }
}

TEST_F(OpenModelTest, NothingOfTheModelIsSentToHostsThatHaveIt) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    write(choice_.path, dtype);
    for (int i = 0; i < 2; ++i) {
      std::int64_t bytes = 0;
      const std::int64_t got = received([&] {
        OpenModel m = open();
        bytes = 4 * m.backbone->parameters().count();
        return m;
      });
      EXPECT_LT(got, bytes / 100) << dtype;
    }
  }
}

TEST_F(OpenModelTest, IdentityIsOfTheNumbers) {
  write(choice_.path, at::kBFloat16);
  const Digest from_store = open().identity;
  EXPECT_EQ(open().identity, from_store);  // from the record
  EXPECT_EQ(load_backbone(choice_.path)->parameters().identity(), from_store);
  comm_->barrier();
  write(choice_.path, at::kBFloat16, 1);
  const Digest other = open().identity;
  EXPECT_NE(other, from_store);
  EXPECT_EQ(load_backbone(choice_.path)->parameters().identity(), other);
}

TEST_F(OpenModelTest, RandomWeightsAreOneFileToo) {
  write(choice_.path, at::kFloat);
  choice_.config = choice_.path + "/config.json";
  choice_.path.clear();
  choice_.seed = 5;
  for (int i = 0; i < 2; ++i) {
    const OpenModel model = open();
    EXPECT_EQ(model.identity,
              random_backbone(choice_.config, 5)->parameters().identity());
    EXPECT_TRUE(comm_->size() == 1 || model.private_bytes == 0);
  }
}

TEST_F(OpenModelTest, ADamagedFileIsPreparedAnew) {
  if (comm_->size() == 1) return;  // a single rank prepares none
  write(choice_.path, at::kBFloat16);
  const OpenModel first = open();
  const double sum = touch(*first.backbone);
  const std::string file = prepared_path(cache(0), first.identity);
  ASSERT_TRUE(fs::exists(file));
  for (const std::int64_t from_end : {50000, 100000000}) {
    comm_->barrier();
    if (comm_->rank() == 0) {
      fs::permissions(file, fs::perms::owner_write, fs::perm_options::add);
      if (from_end > static_cast<std::int64_t>(fs::file_size(file))) {
        fs::resize_file(file, 5000);
      } else {
        std::fstream f(file, std::ios::binary | std::ios::in | std::ios::out);
        f.seekp(-from_end, std::ios::end);
        f << "damage";
      }
    }
    comm_->barrier();
    const OpenModel again = open();
    EXPECT_EQ(touch(*again.backbone), sum);
    EXPECT_EQ(again.identity, first.identity);
    EXPECT_EQ(again.private_bytes, 0);
  }
  // A temporary file of somebody who died goes, when it is old enough.
  EXPECT_TRUE(fs::exists(file));
}

TEST_F(OpenModelTest, TwoJobsPrepareAtOnce) {
  if (comm_->size() < 4) return;
  write(choice_.path, at::kBFloat16);
  const auto job = comm_->split(comm_->rank() / 2, comm_->rank());
  const OpenModel model = open_model(choice_, *job);
  const double sum = touch(*model.backbone);
  EXPECT_EQ(sum, touch(*load_backbone(choice_.path)));
  EXPECT_EQ(model.private_bytes, 0);
  comm_->barrier();
  std::size_t prepared = 0;
  for (const auto& entry : fs::directory_iterator(cache(0) + "/weights")) {
    prepared += entry.path().extension() == ".weights";
    EXPECT_NE(entry.path().extension(), ".tmp");
  }
  EXPECT_EQ(prepared, 1u);
  comm_->barrier();
}

TEST_F(OpenModelTest, HostsThatLackItAreSentItOnce) {
  if (comm_->size() == 1) return;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const std::string path =
        (folder_ / fmt::format("m{}", int(dtype))).string();
    write(path, dtype);
    // Ranks 2 and 3 are one host, 0 and 1 hosts of their own; rank 0 alone
    // has the folder.
    const int host = comm_->rank() > 1 ? 2 : comm_->rank();
    ::setenv("THINWIRE_HOST", std::to_string(host).c_str(), 1);
    choice_.cache = cache(host);
    choice_.path = host == 0 ? path : (folder_ / "absent").string();
    const double sum = touch(*load_backbone(path));
    comm_->barrier();
    const auto size = static_cast<std::int64_t>(
        fs::file_size(fs::path(path) / "model.safetensors"));
    Digest identity;
    const std::int64_t got = received([&] {
      OpenModel model = open();
      EXPECT_EQ(touch(*model.backbone), sum);
      identity = model.identity;
      return model;
    });
    const bool receives = comm_->rank() == 1 || comm_->rank() == 2;
    EXPECT_LT(got, (receives ? size : 0) + size / 100) << comm_->rank();
    EXPECT_TRUE(!receives || got > size) << got;
    EXPECT_LT(received([&] { return open(); }), size / 100);

    // A copy that was damaged is sent again.
    comm_->barrier();
    const std::string copy =
        cache(host) + "/models/" + identity.hex() + "/model.safetensors";
    EXPECT_EQ(fs::exists(copy), host != 0);
    if (comm_->rank() == 1) {
      std::fstream f(copy, std::ios::binary | std::ios::in | std::ios::out);
      f.seekp(-9, std::ios::end);
      f << "damage";
    }
    comm_->barrier();
    const std::int64_t again = received([&] {
      OpenModel model = open();
      EXPECT_EQ(touch(*model.backbone), sum);
      return model;
    });
    EXPECT_EQ(again > size / 2, comm_->rank() == 1);
    comm_->barrier();
  }
}

TEST_F(OpenModelTest, ARankOfTheSameHostUsesTheOthersFolder) {
  write(choice_.path, at::kFloat);
  const std::string path = choice_.path;
  if (comm_->rank() > 0) choice_.path = (folder_ / "absent").string();
  EXPECT_EQ(open().folder, path);
}

TEST_F(OpenModelTest, AnotherModelIsNamedByItsTensor) {
  if (comm_->size() == 1) return;
  const std::string path = choice_.path;
  write(path, at::kFloat);
  write(path + "2", at::kFloat, 1e-3f);
  if (comm_->rank() == 1) choice_.path = path + "2";
  const std::string text = error();
  EXPECT_THAT(text, HasSubstr("model: rank 1 has another backbone ("));
  EXPECT_THAT(text, HasSubstr("tensor 'decoder.final_layer_norm.weight'"));
  agree(*comm_, "the error", text);
}

TEST_F(OpenModelTest, AnErrorOfOneRankIsEverybodys) {
  const std::string path = choice_.path;
  write(path, at::kFloat);
  write(path + "2", at::kFloat);
  if (comm_->rank() == 0) {
    fs::resize_file(path + "2/model.safetensors", 1000);
  }
  comm_->barrier();
  if (comm_->rank() == comm_->size() - 1) choice_.path = path + "2";
  const std::string text = error();
  const int bad = comm_->size() - 1;
  EXPECT_THAT(
      text, testing::StartsWith(comm_->rank() == bad
                                    ? path + "2/model.safetensors: "
                                    : fmt::format("rank {}: {}2/", bad, path)));

  choice_.path = (folder_ / "nowhere").string();
  EXPECT_THAT(error(), HasSubstr("nowhere"));
  choice_.path = path;
  choice_.cache = "/proc/nowhere";
  EXPECT_THAT(error(), testing::StartsWith("/proc/nowhere: cannot keep"));
}

}  // namespace
}  // namespace thinwire
