// From MPI_Init to MPI_Finalize, under watch.
#include <mpi.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "comm/mpi.h"
#include "comm/mpi_common.h"
#include "comm/watch.h"

namespace thinwire {
namespace {

constexpr double kFinalizeSeconds = 30;
constexpr const char* kRankNames[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK",
                                      "PMI_RANK"};

}  // namespace

bool started_by_mpi() noexcept { return launched_rank() >= 0; }

int launched_rank() noexcept {
  for (const char* name : kRankNames) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return -1;
}

void join_watch(Watch& watch) {
  const WatchLimit limit("MPI_Allgather at the start", kStartSeconds);
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  const WatchCard mine = watch.make_card(rank);
  std::vector<WatchCard> cards(static_cast<std::size_t>(size));
  mpi::check(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, cards.data(),
                           sizeof mine, MPI_BYTE, MPI_COMM_WORLD),
             "MPI_Allgather");
  watch.join(rank, std::move(cards), kStartSeconds);
}

MpiSession::MpiSession(WatchOptions options)
    : watch_(std::make_unique<Watch>(std::move(options))) {
  watch_->make_current(true);
  int provided = 0;
  {
    const WatchLimit limit("MPI_Init", kStartSeconds);
    mpi::check(
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided),
        "MPI_Init_thread");
  }
  if (provided != MPI_THREAD_MULTIPLE) {
    fail<CommError>("MPI: MPI_THREAD_MULTIPLE is needed, level {} is provided",
                    provided);
  }
  join_watch(*watch_);
}

MpiSession::~MpiSession() {
  watch_->leave();
  if (!mpi::some_message_abandoned && watch_->failure() == nullptr) {
    const WatchLimit limit("MPI_Finalize", kFinalizeSeconds);
    MPI_Finalize();
    return;
  }
  // The first abnormal exit makes the launcher end the others; before that,
  // they are to read the notice and say on their own what happened.
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
}

void MpiSession::abort(int status) noexcept {
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace thinwire
