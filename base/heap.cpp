#include "base/heap.h"

#include <malloc.h>

#include <cstddef>

// jemalloc's, where the program is linked with it; tests are not.
extern "C" [[gnu::weak]] int mallctl(const char* name, void* old,
                                     std::size_t* old_size, void* next,
                                     std::size_t next_size);

namespace thinwire {

void give_back_freed_memory() noexcept {
  if (mallctl != nullptr) {
    constexpr const char* kAllArenas = "arena.4096.purge";
    mallctl(kAllArenas, nullptr, nullptr, nullptr, 0);
  } else {
    malloc_trim(0);
  }
}

}  // namespace thinwire
