// Files and folders that are whole or not there, also after a crash: every
// write is fsynced, folders appear by rename. All throw IoError (path, what,
// the system's text).
#pragma once

#include <string>
#include <string_view>

namespace thinwire {

// Names of unfinished or doomed folders begin so; they are swept at start.
inline constexpr std::string_view kTemporaryPrefix = ".tmp-";

// Creates or truncates, writes, fsyncs. Not atomic by itself: used inside
// temporary folders.
void write_file(const std::string& path, std::string_view bytes);
std::string read_file(const std::string& path);
// Written beside its place, renamed, its folder fsynced: whole or as it was.
void publish_file(const std::string& path, std::string_view bytes);

void create_folder(const std::string& path);  // and its parents
void sync_folder(const std::string& path);
// Renames a finished folder into place and fsyncs the parent. A folder that is
// there already is exchanged in one step, then removed.
void publish_folder(const std::string& from, const std::string& to);
// Renames out of the way first, so that a half removed folder is never taken
// for a whole one.
void remove_folder(const std::string& path);
// Removes what earlier runs left unfinished directly under `folder`; a missing
// folder is fine.
void sweep_temporaries(const std::string& folder);

}  // namespace thinwire
