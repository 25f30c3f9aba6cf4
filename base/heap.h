// The heap as a whole.
#pragma once

namespace thinwire {

// Gives what is freed back to the kernel, where the program's allocator keeps
// it (jemalloc, as launch/main.cpp sets it). For after work that held much and
// is done for now: what is taken next is page faults.
void give_back_freed_memory() noexcept;

}  // namespace thinwire
