// A folder that becomes visible whole, or not at all: made beside its place as
// PATH.tmp, renamed when all is in it.
#pragma once

#include <string>

namespace thinwire {

class NewFolder {
 public:
  // Throws UsageError where something stands at `path` that is no empty folder,
  // IoError where no folder can be made.
  explicit NewFolder(const std::string& path);
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder();  // removes PATH.tmp unless publish() returned

  // The place of a file of this name, until publish().
  std::string operator/(const std::string& name) const;
  const std::string& path() const { return temporary_; }
  void publish();  // IoError

 private:
  std::string path_, temporary_;
  bool published_ = false;
};

}  // namespace thinwire
