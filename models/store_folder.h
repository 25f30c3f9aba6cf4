// The folder where a host keeps what it found out about models, and prepared
// weights:
//
//   weights/IDENTITY.weights  prepared files (models/host_store.h)
//   weights/IDENTITY.used     its time says when that file was last opened
//   records/KEY.json          digests of a model whose files have state KEY
//   models/IDENTITY/          folders that another host sent
//
// Anything in it may be deleted at any time.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "models/atomic_file.h"
#include "models/host_store.h"

namespace thinwire {

// Where to look, in this order: `asked`; or, if that is empty,
// $XDG_CACHE_HOME/thinwire (else ~/.cache/thinwire), then a folder of this user
// in /dev/shm. Those that cannot be made or written are left out.
std::vector<std::string> store_folders(const std::string& asked);

// The first of `folders` with room for `bytes` more and some to spare, after
// prepared weights that nobody used for long are gone; "" if there is none.
std::string folder_with_room(const std::vector<std::string>& folders,
                             std::int64_t bytes);

// What stat says of some files: device, inode, size, times of change. Equal
// states are taken for equal contents.
struct FileState {
  Digest key;
  std::int64_t newest_ns = 0;  // the last change of any of them
};
FileState file_state(std::span<const std::string> files);  // throws IoError

// Whether a file changed so shortly before `now_ns` that another change might
// leave its times as they are.
bool too_fresh(const FileState& state, std::int64_t now_ns);
std::int64_t wall_clock_ns();

// Digests by tensor of a model. load: none where there is no such record or it
// is of other tensors. save: a folder that cannot be written is no error.
std::optional<std::vector<Digest>> load_record(
    std::span<const std::string> folders, const Digest& key,
    const StorePlan& plan);
void save_record(std::span<const std::string> folders, const Digest& key,
                 const StorePlan& plan, std::span<const Digest> digests);

std::string prepared_path(const std::string& folder, const Digest& identity);
std::string temporary_path(const std::string& folder);  // new with every call
void note_use(const std::string& prepared);

// Removes temporary files whose makers are gone.
void sweep_store(const std::string& folder);

// Held while a file is prepared, so that two jobs do not do the same work.
// Gives up after `seconds`: then both do it, which is only slower.
File lock_store(const std::string& folder, double seconds);

}  // namespace thinwire
