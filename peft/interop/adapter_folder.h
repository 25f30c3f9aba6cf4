// Adapters as other libraries keep them, read into a delta and written from
// one: folders of HF peft (LORA, IA3, PROMPT_TUNING, PREFIX_TUNING) and of
// AdapterHub (bottlenecks). What each kind is, is in a file of its own beside
// this one; docs/interop.md says what is read and written.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "peft/interop/disk_tensors.h"
#include "peft/method.h"

namespace thinwire {

struct AdapterFolder {
  std::unique_ptr<Method> method;
  Delta delta;                   // neither bound nor attached
  std::vector<DiskTensor> disk;  // its entries' places, by the names found
};

// What of a folder decides which task head the backbone needs: the rows of the
// last layer of a saved head, 0 if there is none, and peft's task_type
// ("SEQ_CLS", …, "" if unset). Throws like read_adapter_folder.
struct AdapterHead {
  std::string task_type;
  std::int64_t labels = 0;
};
AdapterHead read_adapter_head(const std::string& folder);

// backbone: with the head that the folder saved, if any. Throws UsageError or
// IoError naming the file and the key, tensor or module that is missing, that
// has no place in this backbone or that is not read.
AdapterFolder read_adapter_folder(const std::string& folder,
                                  const Backbone& backbone);

// Libraries whose folders hold what this method makes, the usual one first.
std::vector<std::string_view> adapter_libraries(std::string_view method);

struct AdapterOptions {
  std::string library = {};     // "peft" or "adapterhub"; "": the usual one
  std::string model_path = {};  // of the backbone, as the folder shall name it
  std::string name = "thinwire";  // of the adapter, where the library has one
};

// Makes the folder, whole or not at all. delta: of one method and of heads,
// on this backbone with its head. Throws UsageError for methods that such a
// folder cannot hold and for a path that is taken, or IoError.
void write_adapter_folder(const std::string& path, const Delta& delta,
                          const Backbone& backbone,
                          const AdapterOptions& options);

}  // namespace thinwire
