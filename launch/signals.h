// SIGTERM asks a run to stop with a checkpoint (exit status 75), SIGUSR1 for a
// checkpoint in passing. A second SIGTERM ends the process at once.
#pragma once

#include "dist/trainer.h"

namespace thinwire {

void install_signal_handlers();

// What was asked since the last call; for TrainRun::request.
TrainRun::Request take_request();

}  // namespace thinwire
