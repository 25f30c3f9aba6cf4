// The main() of every C++ test binary.
//
// Plain: GoogleTest and a watchdog. Under mpirun besides: MPI is started with
// MPI_THREAD_MULTIPLE, rank 0 prints and the other ranks print only failures,
// the ranks agree after every test whether it passed, and the exit status is
// the largest of all ranks.
//
//   THINWIRE_TEST_TIMEOUT=S   seconds after which a test counts as hung (100)
//   --hang-rank R             rank R prints its pid and waits for a debugger
#include <gtest/gtest.h>
#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

struct World {
  bool mpi = false;
  int rank = 0;
  int size = 1;
};

[[noreturn]] void end_job(const World& world, int status) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (world.mpi) MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

// Ends the job when one test runs for longer than the limit.
class Watchdog {
 public:
  Watchdog(const World& world, double limit_seconds)
      : world_(world), limit_(limit_seconds), thread_([this] { watch(); }) {}

  ~Watchdog() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  void begin(std::string test) {
    const std::lock_guard lock(mutex_);
    test_ = std::move(test);
    started_ = Clock::now();
  }

  void end() { begin(""); }

 private:
  void watch() {
    std::unique_lock lock(mutex_);
    while (!stop_) {
      wake_.wait_for(lock, std::chrono::milliseconds(200));
      const std::chrono::duration<double> ran = Clock::now() - started_;
      if (stop_ || test_.empty() || ran < limit_) continue;
      std::fprintf(stderr, "[rank %d] %s hung for %.0f s\n", world_.rank,
                   test_.c_str(), ran.count());
      end_job(world_, 3);
    }
  }

  const World& world_;
  const std::chrono::duration<double> limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;
  std::string test_;
  Clock::time_point started_ = Clock::now();
  std::thread thread_;  // last: it reads the members above
};

// Which rank failed, of all ranks: they leave every test together. A rank that
// never arrives is the watchdog's business.
int first_failed_rank(const World& world, bool failed) {
  int mine = failed ? world.rank : world.size;
  int first = world.size;
  MPI_Request request = MPI_REQUEST_NULL;
  MPI_Iallreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD, &request);
  for (int polls = 0, done = 0;; ++polls) {
    MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (done != 0) return first;
    if (polls > 100) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  }
}

class Listener : public testing::EmptyTestEventListener {
 public:
  Listener(const World& world, Watchdog& watchdog)
      : world_(world), watchdog_(watchdog) {}

  bool any_rank_failed() const { return any_rank_failed_; }

 private:
  void OnTestStart(const testing::TestInfo& test) override {
    watchdog_.begin(name(test));
  }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (world_.rank == 0 || !result.failed()) return;
    std::fprintf(stderr, "[rank %d] %s:%d: %s\n", world_.rank,
                 result.file_name() != nullptr ? result.file_name() : "?",
                 result.line_number(), result.message());
  }

  void OnTestEnd(const testing::TestInfo& test) override {
    if (world_.mpi) {
      // The rank that hangs is named before those that wait for it.
      watchdog_.begin(name(test) + ", done here, waiting for the other ranks,");
      const int first = first_failed_rank(world_, test.result()->Failed());
      if (first < world_.size) any_rank_failed_ = true;
      if (first < world_.size && first != 0 && world_.rank == 0) {
        std::fprintf(stderr, "[  FAILED  ] %s on rank %d\n", name(test).c_str(),
                     first);
      }
    }
    watchdog_.end();
  }

  static std::string name(const testing::TestInfo& test) {
    return std::string(test.test_suite_name()) + "." + test.name();
  }

  const World& world_;
  Watchdog& watchdog_;
  bool any_rank_failed_ = false;
};

World start_mpi(int* argc, char*** argv) {
  World world;
  if (std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr) return world;
  int provided = 0;
  MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided);
  world.mpi = true;
  MPI_Comm_rank(MPI_COMM_WORLD, &world.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &world.size);
  if (provided != MPI_THREAD_MULTIPLE) {
    std::fprintf(stderr, "[rank %d] MPI lacks MPI_THREAD_MULTIPLE\n",
                 world.rank);
    end_job(world, 2);
  }
  return world;
}

// Removes `--hang-rank R` from the arguments; -1 when absent.
int take_hang_rank(int* argc, char** argv) {
  for (int i = 1; i + 1 < *argc; ++i) {
    if (std::strcmp(argv[i], "--hang-rank") != 0) continue;
    const int rank = std::atoi(argv[i + 1]);
    for (int j = i; j + 2 <= *argc; ++j) argv[j] = argv[j + 2];
    *argc -= 2;
    return rank;
  }
  return -1;
}

void wait_for_debugger(const World& world) {
  static volatile int go = 0;
  std::fprintf(stderr,
               "[rank %d] pid %d waits: attach, `set var go = 1` in "
               "wait_for_debugger, continue\n",
               world.rank, static_cast<int>(getpid()));
  while (go == 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
}

}  // namespace

int main(int argc, char** argv) {
  const World world = start_mpi(&argc, &argv);
  if (take_hang_rank(&argc, argv) == world.rank) wait_for_debugger(world);
  testing::InitGoogleTest(&argc, argv);

  const char* limit = std::getenv("THINWIRE_TEST_TIMEOUT");
  int status = 0;
  {
    Watchdog watchdog(world, limit != nullptr ? std::atof(limit) : 100.0);
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    if (world.rank != 0) {
      delete listeners.Release(listeners.default_result_printer());
    }
    auto* listener = new Listener(world, watchdog);  // GoogleTest owns it
    listeners.Append(listener);
    status = RUN_ALL_TESTS();
    if (listener->any_rank_failed()) status = 1;
    if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
      std::fprintf(stderr, "[rank %d] no test matches the filter\n",
                   world.rank);
      status = 1;
    }
    delete listeners.Release(listener);  // it refers to the watchdog
  }
  if (world.mpi) {
    int worst = status;
    MPI_Allreduce(&status, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    status = worst;
    MPI_Finalize();
  }
  return status;
}
