#include "ops/reference.h"

#include <atomic>

namespace thinwire {
namespace {

std::atomic<bool> on_now{false};

}  // namespace

bool reference_ops() { return on_now; }
void set_reference_ops(bool on) { on_now = on; }

}  // namespace thinwire
