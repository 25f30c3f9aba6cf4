// Faults on demand, so that tests can break every step of a durable write.
//
// THINWIRE_FAIL_WRITE=N   the Nth write, fsync or rename fails with ENOSPC,
//                         and so do all that follow: a full disk
// THINWIRE_KILL_WRITE=N   the process is killed (SIGKILL) at the Nth
//
// Counted per process from 1; without the variables this costs one load.
#pragma once

#include <cstdint>

namespace thinwire {

// Called before each write, fsync and rename of a durable file. True: the step
// is to be treated as failed, errno is set.
bool write_fails() noexcept;

// The same from inside a test; 0 is off. Restarts the count.
void set_write_faults(std::int64_t fail_at, std::int64_t kill_at);
std::int64_t write_steps() noexcept;  // counted since then

}  // namespace thinwire
