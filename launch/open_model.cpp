#include "launch/open_model.h"

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/host.h"
#include "comm/communicator.h"
#include "dist/together.h"
#include "launch/alike.h"
#include "launch/host_start.h"
#include "launch/send_model.h"

namespace thinwire {
namespace {

namespace fs = std::filesystem;

// Slower than a link or disk that a model crosses, bytes per second.
constexpr double kSlowLink = 100e3;
constexpr double kSlowDisk = 20e6;

// What one rank says of itself: fixed words of JSON.
struct Rank {
  std::string host, folder;
  bool has = false;
};

std::vector<std::string> gather(Communicator& comm, std::string_view text,
                                std::string_view tag) {
  std::vector<std::string> out;
  for (const auto& bytes :
       comm.all_gather_v(std::as_bytes(std::span(text)), {.tag = tag})) {
    out.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return out;
}

// A folder that its ranks cannot see is not there; one of another rank of the
// same host will do.
std::vector<Rank> look_around(const ModelChoice& choice, Communicator& comm) {
  std::error_code ignored;
  const bool has =
      choice.path.empty() || fs::is_directory(choice.path, ignored);
  const std::string folder =
      choice.path.empty() ? "" : fs::absolute(choice.path, ignored).string();
  const std::string text = nlohmann::json{this_host().hex(), folder, has}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
  std::vector<Rank> ranks;
  for (const std::string& t : gather(comm, text, "who has the model")) {
    const auto json = nlohmann::json::parse(t);
    ranks.push_back({json[0], json[1], json[2]});
  }
  const bool nobody =
      std::ranges::none_of(ranks, [](const Rank& r) { return r.has; });
  for (Rank& r : ranks) {
    if (r.has) continue;
    const auto other = std::ranges::find_if(ranks, [&](const Rank& o) {
      return o.has && o.host == r.host && fs::path(o.folder) != r.folder;
    });
    // Nobody has it: opening it says what is missing.
    if (other != ranks.end()) r.folder = other->folder;
    r.has = nobody || other != ranks.end();
  }
  return ranks;
}

// One model over all ranks, opened by some of them at a time.
class Opening {
 public:
  Opening(const ModelChoice& choice, Communicator& comm)
      : choice_(choice),
        comm_(comm),
        ranks_(look_around(choice, comm)),
        me_(static_cast<std::size_t>(comm.rank())) {}

  OpenModel run() {
    begin(ranks_[me_].has, ranks_[me_].folder, false);
    const auto source = std::ranges::find_if(ranks_, &Rank::has);
    if (std::ranges::any_of(ranks_, [](const Rank& r) { return !r.has; })) {
      send(static_cast<int>(source - ranks_.begin()));
    }
    OpenModel out;
    out.backbone = std::move(model_.backbone);
    out.identity = identity_of(files_->plan, model_.digests);
    out.backbone->parameters().set_identity(out.identity);
    out.folder = ranks_[me_].folder;
    out.shared_bytes = model_.shared_bytes;
    out.private_bytes = files_->plan.bytes - model_.shared_bytes;
    out.sharable_bytes = files_->plan.bytes;
    out.received_bytes = received_;
    return out;
  }

 private:
  // Ranks with `mine` open their folder: those of one host together.
  void begin(bool mine, const std::string& folder, bool ours) {
    alike(comm_, [&] {
      if (!mine) return true;
      files_ = open_files(choice_, folder);
      files_->ours = ours;
      return true;
    });
    const std::string key =
        mine ? ranks_[me_].host + files_->state.key.hex() : "";
    const auto keys = gather(comm_, key, "the model's files");
    const int group =
        static_cast<int>(std::ranges::find(keys, key) - keys.begin());
    const Patience patience(comm_, 120 + slowest_bytes() / kSlowDisk);
    const auto host = comm_.split(group, comm_.rank());
    alike(comm_, [&] {
      if (mine) model_ = start_on_host(*host, *files_, choice_.cache);
      return true;
    });
    received_ += host->bytes().received;
    agree_on_identity();
  }

  double slowest_bytes() {
    const std::string mine = files_ ? std::to_string(files_->plan.bytes) : "0";
    double most = 0;
    for (const auto& text : gather(comm_, mine, "the model's size")) {
      most = std::max(most, std::stod(text));
    }
    return most;
  }

  void agree_on_identity() {
    const std::string mine =
        files_ ? identity_of(files_->plan, model_.digests).hex() : "";
    const auto all = gather(comm_, mine, "the model's identity");
    for (const std::string& identity : all) {
      if (identity.empty()) continue;
      if (identity_.empty()) identity_ = identity;
    }
    bool same = true;
    for (const std::string& identity : all) {
      same = same && (identity.empty() || identity == identity_);
    }
    if (!same) name_difference(all);
  }

  [[noreturn]] void name_difference(const std::vector<std::string>& all) {
    // Names first: models of other shapes have others.
    std::string names;
    if (files_) {
      for (std::size_t i = 0; i < files_->plan.tensors.size(); ++i) {
        names += files_->plan.tensors[i].names.front() + "\n";
      }
    }
    std::string digests;
    for (const Digest& d : model_.digests) digests += d.hex();
    const auto every_name =
        gather(comm_, hash128(std::as_bytes(std::span(names))).hex(), "names");
    const auto every = gather(comm_, digests, "digests");
    const auto reference = static_cast<std::size_t>(
        std::ranges::find(all, identity_) - all.begin());
    const auto odd = static_cast<std::size_t>(
        std::ranges::find_if(all,
                             [&](const std::string& i) {
                               return !i.empty() && i != identity_;
                             }) -
        all.begin());
    std::string what = "they have different tensors";
    if (every_name[odd] == every_name[reference]) {
      constexpr std::size_t kHex = 32;
      std::size_t i = 0;
      while (every[odd].compare(i * kHex, kHex, every[reference], i * kHex,
                                kHex) == 0 &&
             i * kHex < every[odd].size()) {
        ++i;
      }
      // Every rank that has the tensors can say its name; the others ask.
      std::string name;
      if (files_ && i < files_->plan.tensors.size()) {
        name = files_->plan.tensors[i].names.front();
      }
      const auto told = gather(comm_, name, "the tensor's name");
      what =
          fmt::format("tensor '{}' differs, maybe others too", told[reference]);
    }
    fail<UsageError>(
        "model: rank {} has another backbone ({}) than rank {} ({}): {}; give "
        "every rank the same model",
        odd, all[odd], reference, identity_, what);
  }

  // Hosts without the folder get it from `source`, unless they kept it from an
  // earlier time; then they open it.
  void send(int source) {
    const Rank& mine = ranks_[me_];
    const bool lacks = !mine.has;
    const auto first = std::ranges::find_if(
        ranks_, [&](const Rank& r) { return r.host == mine.host; });
    const bool leads = lacks && first - ranks_.begin() == comm_.rank();
    std::vector<std::string> files;
    if (comm_.rank() == source) {
      files = files_->source->files();
      files.push_back((fs::path(mine.folder) / "config.json").string());
    }
    std::int64_t bytes = 0;
    for (const std::string& f : files) {
      bytes += static_cast<std::int64_t>(fs::file_size(f));
    }
    for (const auto& text :
         gather(comm_, std::to_string(bytes), "the model's size")) {
      bytes = std::max<std::int64_t>(bytes, std::stoll(text));
    }
    std::string to;
    bool wants = false;
    alike(comm_, [&] {
      if (leads) wants = !kept(bytes, to);
      return true;
    });
    const Patience patience(comm_, static_cast<double>(bytes) / kSlowLink);
    const bool takes_part = wants || comm_.rank() == source;
    const auto group =
        comm_.split(takes_part ? 0 : 1, comm_.rank() == source ? 0 : 1);
    alike(comm_, [&] {
      if (takes_part && group->size() > 1) send_model(*group, files, to);
      return true;
    });
    received_ += group->bytes().received;
    const auto folders = gather(comm_, to, "the model's folder");
    if (lacks) {
      ranks_[me_].folder =
          folders[static_cast<std::size_t>(first - ranks_.begin())];
    }
    begin(lacks, ranks_[me_].folder, true);
  }

  // Where the model belongs on this host, and whether it is there, whole.
  bool kept(std::int64_t bytes, std::string& to) const {
    const auto folders = store_folders(choice_.cache);
    for (const std::string& folder : folders) {
      to = folder + "/models/" + identity_;
      if (!fs::is_directory(to)) continue;
      try {
        const ModelFiles files = open_files(choice_, to);
        const auto known = load_record(folders, files.state.key, files.plan);
        if (known && identity_of(files.plan, *known).hex() == identity_) {
          return true;
        }
      } catch (const Error&) {
        // Damaged: as good as none.
      }
      fs::remove_all(to);
    }
    const std::string folder = folder_with_room(folders, bytes);
    if (folder.empty()) {
      fail<IoError>(
          "{}: is not on this host, and there is no room for {} bytes in {} to "
          "receive it (set model.cache)",
          choice_.path, bytes, fmt::join(folders, ", "));
    }
    to = folder + "/models/" + identity_;
    return false;
  }

  const ModelChoice& choice_;
  Communicator& comm_;
  std::vector<Rank> ranks_;
  const std::size_t me_;
  std::optional<ModelFiles> files_;
  HostModel model_;
  std::string identity_;  // of the ranks that have opened theirs
  std::int64_t received_ = 0;
};

}  // namespace

OpenModel open_model(const ModelChoice& choice, Communicator& comm) {
  return Opening(choice, comm).run();
}

}  // namespace thinwire
