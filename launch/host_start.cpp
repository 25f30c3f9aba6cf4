#include "launch/host_start.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <utility>

#include "base/error.h"
#include "comm/communicator.h"
#include "dist/together.h"
#include "launch/alike.h"
#include "launch/progress.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// Slower than any disk that a model is read from, bytes per second.
constexpr double kSlowDisk = 20e6;
// How long the lock of another job that prepares weights is waited for.
constexpr double kLockSeconds = 60;

std::span<const std::byte> bytes_of(std::span<const Digest> digests) {
  static_assert(sizeof(Digest) == 16);
  return std::as_bytes(digests);
}

std::vector<Digest> digests_of(std::span<const std::byte> bytes) {
  std::vector<Digest> digests(bytes.size() / sizeof(Digest));
  if (!bytes.empty()) std::memcpy(digests.data(), bytes.data(), bytes.size());
  return digests;
}

class HostStart {
 public:
  HostStart(Communicator& host, const ModelFiles& files,
            const std::string& cache)
      : host_(host),
        files_(files),
        plan_(files.plan),
        leads_(host.rank() == 0),
        shares_(deal(plan_, host.size())),
        patience_(host,
                  kLockSeconds + static_cast<double>(plan_.bytes) / kSlowDisk) {
    folders_ = alike(host_, [&] { return store_folders(cache); });
  }

  HostModel run() {
    std::vector<Digest> known = from_leader([&] {
      auto record = load_record(folders_, files_.state.key, plan_);
      return record ? std::move(*record) : std::vector<Digest>();
    });
    const bool files_do = plan_.in_place == plan_.bytes || host_.size() == 1;
    if (!files_do) {
      const std::string prepared = prepare(known);
      if (!prepared.empty()) {
        const auto store = open_store(prepared, plan_, files_.source);
        return {make_backbone(files_.config, *store), std::move(known),
                plan_.bytes};
      }
    }
    HostModel out;
    alike(host_, [&] {
      out.backbone = make_backbone(files_.config, *files_.source);
      return true;
    });
    out.shared_bytes = plan_.in_place;
    if (known.empty()) {
      const auto begin = wall_clock_ns();
      const Parameters& p = out.backbone->parameters();
      known = together_digests([&](std::size_t i) {
        return p.digest(p.require(plan_.tensors[i].names.front()));
      });
      remember(known, begin);
    }
    out.digests = std::move(known);
    return out;
  }

 private:
  // Leader's digests on every rank.
  template <class F>
  std::vector<Digest> from_leader(F f) {
    std::vector<Digest> mine;
    if (leads_) mine = f();
    return digests_of(
        host_.broadcast_bytes(bytes_of(mine), 0, {.tag = "digests"}));
  }

  std::string text_from_leader(const std::string& text) {
    const auto bytes = host_.broadcast_bytes(std::as_bytes(std::span(text)), 0,
                                             {.tag = "prepared weights"});
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // Every rank computes its share of the tensors' digests.
  template <class F>
  std::vector<Digest> together_digests(F digest) {
    const auto& mine = shares_[static_cast<std::size_t>(host_.rank())];
    const std::vector<Digest> found = alike(host_, [&] {
      std::vector<Digest> out;
      for (const std::size_t i : mine) out.push_back(digest(i));
      return out;
    });
    const auto all = host_.all_gather_v(bytes_of(found), {.tag = "digests"});
    std::vector<Digest> digests(plan_.tensors.size());
    for (std::size_t r = 0; r < all.size(); ++r) {
      const auto part = digests_of(all[r]);
      THINWIRE_ASSERT(part.size() == shares_[r].size(), "{} of {}", part.size(),
                      shares_[r].size());
      for (std::size_t k = 0; k < part.size(); ++k) {
        digests[shares_[r][k]] = part[k];
      }
    }
    return digests;
  }

  // begin_ns: when reading the files began.
  void remember(std::span<const Digest> digests, std::int64_t begin_ns) {
    if (!leads_ || (files_.source->files().empty() && host_.size() == 1)) {
      return;
    }
    if (!files_.ours && too_fresh(files_.state, begin_ns)) return;
    save_record(folders_, files_.state.key, plan_, digests);
  }

  // The prepared file that holds `known` (filled in if empty); "" if there is
  // no place for it.
  std::string prepare(std::vector<Digest>& known) {
    if (!known.empty()) {
      const std::string found = text_from_leader(leads_ ? find(known) : "");
      if (!found.empty() && holds(found, known)) return use(found);
    }
    File lock;
    std::string folder;
    if (leads_) {
      folder = folder_with_room(folders_, plan_.file_bytes);
      if (!folder.empty()) lock = lock_store(folder, kLockSeconds);
    }
    if (!known.empty()) {  // another job may have made it meanwhile
      const std::string found = text_from_leader(leads_ ? find(known) : "");
      if (!found.empty() && holds(found, known)) return use(found);
    }
    folder = text_from_leader(folder);
    if (folder.empty()) {
      return give_up(fmt::format(
          "no folder of {} has room for {}", fmt::join(folders_, ", "),
          human_bytes(static_cast<double>(plan_.file_bytes))));
    }
    return build(folder, known);
  }

  std::string find(std::span<const Digest> known) const {
    const Digest identity = identity_of(plan_, known);
    for (const std::string& folder : folders_) {
      const std::string path = prepared_path(folder, identity);
      const auto stated = read_store(path, plan_);
      if (stated && std::ranges::equal(*stated, known)) return path;
    }
    return "";
  }

  // Whether the file's numbers are those it states; if not, it is removed.
  bool holds(const std::string& path, std::span<const Digest> known) {
    std::optional<FileState> state;
    std::vector<Digest> trusted = from_leader([&] {
      state = file_state(std::span(&path, 1));
      auto record = load_record(folders_, state->key, plan_);
      return record ? std::move(*record) : std::vector<Digest>();
    });
    if (std::ranges::equal(trusted, known)) return true;
    const auto begin = wall_clock_ns();
    const auto store =
        alike(host_, [&] { return open_store(path, plan_, files_.source); });
    const auto found = together_digests(
        [&](std::size_t i) { return hash_stored(*store, plan_, i); });
    const bool good = std::ranges::equal(found, known);
    if (leads_ && good && !too_fresh(*state, begin)) {
      save_record(folders_, state->key, plan_, found);
    }
    if (!good && leads_) {
      spdlog::warn("{}: damaged; prepared anew", path);
      std::error_code ignored;
      fs::remove(path, ignored);
    }
    host_.barrier({.tag = "prepared weights"});
    return good;
  }

  std::string build(const std::string& folder, std::vector<Digest>& known) {
    const auto begin = wall_clock_ns();
    const std::string temporary =
        text_from_leader(leads_ ? temporary_path(folder) : "");
    std::string path;
    try {
      std::optional<StoreWriter> writer;
      alike(host_, [&] {
        if (leads_) writer = StoreWriter::create(temporary, plan_);
        return true;
      });
      alike(host_, [&] {
        if (!leads_) writer = StoreWriter::join(temporary, plan_);
        return true;
      });
      auto digests = together_digests(
          [&](std::size_t i) { return writer->fill(i, *files_.source); });
      path = prepared_path(folder, identity_of(plan_, digests));
      alike(host_, [&] {
        if (leads_) writer->publish(digests, path);
        return true;
      });
      known = std::move(digests);
    } catch (const IoError& error) {
      if (leads_) ::unlink(temporary.c_str());
      return give_up(error.what());
    } catch (const FailedElsewhere& error) {
      if (leads_) ::unlink(temporary.c_str());
      return give_up(error.what());
    } catch (...) {
      if (leads_) ::unlink(temporary.c_str());
      throw;
    }
    if (leads_) {
      spdlog::info("weights prepared for the ranks of this host: {}", path);
      save_record(folders_, file_state(std::span(&path, 1)).key, plan_, known);
    }
    remember(known, begin);
    return use(path);
  }

  std::string use(const std::string& path) const {
    if (leads_) note_use(path);
    return path;
  }

  std::string give_up(const std::string& why) const {
    if (leads_) {
      spdlog::warn("every rank of this host keeps weights of its own: {}", why);
    }
    return "";
  }

  Communicator& host_;
  const ModelFiles& files_;
  const StorePlan& plan_;
  const bool leads_;
  const std::vector<std::vector<std::size_t>> shares_;
  const Patience patience_;
  std::vector<std::string> folders_;
};

}  // namespace

ModelFiles open_files(const ModelChoice& choice, const std::string& folder) {
  ModelFiles m;
  if (folder.empty()) {
    m.config = read_model_config(choice.config);
    m.source = random_source(choice.seed);
    m.state.key = Hasher()
                      .string("random weights")
                      .number(std::int64_t{kRandomSourceVersion})
                      .number(static_cast<std::int64_t>(choice.seed))
                      .string(m.config.raw.dump())
                      .digest();
  } else {
    const std::string config = (fs::path(folder) / "config.json").string();
    m.config = read_model_config(config);
    m.source = open_weights(folder, m.config);
    auto files = m.source->files();
    files.push_back(config);
    m.state = file_state(files);
  }
  if (choice.dtype != "fp32") {
    m.source = matrices_in(choice.dtype, std::move(m.source));
    m.state.key = Hasher()
                      .string(choice.dtype + " matrices")
                      .string(m.state.key.hex())
                      .digest();
  }
  m.plan = plan_store(m.config, *m.source);
  return m;
}

HostModel start_on_host(Communicator& host, const ModelFiles& files,
                        const std::string& cache) {
  return HostStart(host, files, cache).run();
}

}  // namespace thinwire
