#include "launch/job.h"

#include <ATen/Parallel.h>
#include <sched.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "comm/communicator.h"
#include "comm/mpi.h"
#include "comm/watch.h"
#include "launch/cause.h"

namespace thinwire {
namespace {

// How long ranks wait for each other to say what happened.
constexpr double kReportSeconds = 10;

struct Outcome {
  int status = kExitDone;
  bool secondary = false;  // a CommError: likely the echo of another's error
  std::string text;
};

std::string one_line(std::string text) {
  const std::size_t end = text.find('\n');
  if (end != std::string::npos) text.resize(end);
  return text;
}

Outcome run_body(const std::function<int(Communicator&)>& body) {
  try {
    // Unwinding past the communicator tells the other ranks.
    const auto world = make_communicator("auto");
    return {body(*world), false, ""};
  } catch (const UsageError& error) {
    return {kExitUsage, false, one_line(error.what())};
  } catch (const RunIoError& error) {
    return {kExitFailed, false, fmt::format("{} (IO)", one_line(error.what()))};
  } catch (const IoError& error) {
    return {kExitUsage, false, one_line(error.what())};
  } catch (const std::exception& error) {
    const bool comm = dynamic_cast<const CommError*>(&error) != nullptr;
    return {kExitFailed, comm,
            fmt::format("{} ({})", one_line(error.what()), cause_of(error))};
  }
}

std::string prefix_of(int rank) { return fmt::format("[rank {}] ", rank); }

void print(const std::string& prefix, const std::string& text) {
  std::fprintf(stderr, "%serror: %s\n", prefix.c_str(), text.c_str());
  std::fflush(stderr);
}

// The line of a failure of the run, on the watch's thread: into the log first,
// since stderr may lead to a launcher that is gone.
void say_failure(const std::string& cause, const std::string& text, bool loud) {
  const std::string line = fmt::format("{} ({})", text, cause);
  static bool logged = false;  // the second call is for the user alone
  if (!std::exchange(logged, true)) log_to_file(line);
  if (loud) print(prefix_of(std::max(launched_rank(), 0)), line);
}

std::vector<Outcome> gather(Communicator& control, const Outcome& mine) {
  const std::string text =
      nlohmann::json{mine.status, mine.secondary, mine.text}.dump(
          -1, ' ', false, nlohmann::json::error_handler_t::replace);
  const auto all = control.all_gather_v(
      std::as_bytes(std::span(text)),
      {.tag = "end of the job", .timeout_seconds = kReportSeconds});
  std::vector<Outcome> outcomes;
  for (const auto& bytes : all) {
    const auto json = nlohmann::json::parse(std::string_view(
        reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    outcomes.push_back({json[0], json[1], json[2]});
  }
  return outcomes;
}

// Prints what this rank has to print of the outcomes of all; returns the
// status of the job.
int report(const std::vector<Outcome>& all, int rank) {
  const bool primary = std::ranges::any_of(
      all, [](const Outcome& o) { return !o.text.empty() && !o.secondary; });
  const bool alike = std::ranges::all_of(
      all, [&](const Outcome& o) { return o.text == all.front().text; });
  std::optional<int> status;
  std::set<std::string> said;
  for (std::size_t r = 0; r < all.size(); ++r) {
    const Outcome& o = all[r];
    if (o.text.empty() || (primary && o.secondary)) continue;
    if (!status) status = o.status;
    if (!said.insert(o.text).second || static_cast<int>(r) != rank) continue;
    print(alike ? "" : fmt::format("[rank {}] ", r), o.text);
  }
  if (status) return *status;
  // Nobody threw: the largest of the plain statuses.
  return std::ranges::max(all, {}, &Outcome::status).status;
}

}  // namespace

int run_job(const std::function<int(Communicator&)>& body) {
  std::optional<MpiSession> session;
  std::unique_ptr<Communicator> control;
  int rank = 0;
  try {
    if (started_by_mpi()) {
      // A rank whose output nobody reads any more still says why in its log.
      signal(SIGPIPE, SIG_IGN);
      // A rank whose launcher is killed must not live on.
      const pid_t launcher = getppid();
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != launcher) return kExitFailed;
      session.emplace(WatchOptions{.say = &say_failure});
      // From here on the watch sees that end, says so and ends the process; all
      // it needs is that the process runs.
      prctl(PR_SET_PDEATHSIG, SIGCONT);
      if (getppid() != launcher) return kExitFailed;
    }
    control = make_communicator("auto");
    rank = control->rank();
  } catch (const std::exception& error) {
    print("", one_line(error.what()));
    return kExitFailed;
  }
  const Outcome mine = run_body(body);
  const auto run_failed = [&] {
    return session && session->watch().failure() != nullptr;
  };
  const int status = mine.status == kExitDone ? kExitFailed : mine.status;
  if (run_failed()) {  // the watch has said it
    if (!mine.text.empty() && !mine.secondary)
      print(prefix_of(rank), mine.text);
    return status;
  }
  if (session) session->watch().stop_asking();
  try {
    return report(gather(*control, mine), rank);
  } catch (const CommError& error) {  // some rank is gone for good
    if (!run_failed() || !(mine.text.empty() || mine.secondary)) {
      print(prefix_of(rank),
            mine.text.empty() ? one_line(error.what()) : mine.text);
    }
    return status;
  }
}

void agree_text(Communicator& comm, const std::string& what,
                const std::string& text) {
  const auto bytes =
      comm.broadcast_bytes(std::as_bytes(std::span(text)), 0, {.tag = what});
  const std::string_view first(reinterpret_cast<const char*>(bytes.data()),
                               bytes.size());
  std::string error;
  if (first != text) {
    std::string_view mine(text), theirs(first);
    const auto next_line = [](std::string_view& rest) {
      const std::size_t end = std::min(rest.find('\n'), rest.size());
      const std::string_view line = rest.substr(0, end);
      rest.remove_prefix(std::min(end + 1, rest.size()));
      return line;
    };
    std::string_view a, b;
    while (a == b) {
      a = next_line(mine);
      b = next_line(theirs);
    }
    error = fmt::format("{} differs from rank 0's: '{}' here, '{}' there", what,
                        a, b);
  }
  agree_ok(comm, error);
}

int local_ranks() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS",
                           "SLURM_TASKS_PER_NODE"}) {
    const char* value = std::getenv(name);
    if (value != nullptr && std::atoi(value) > 0) return std::atoi(value);
  }
  return 1;
}

int set_threads(std::int64_t requested) {
  cpu_set_t cpus;
  const bool known = sched_getaffinity(0, sizeof cpus, &cpus) == 0;
  const int cores = known ? CPU_COUNT(&cpus) : 1;
  const int ranks = started_by_mpi() ? local_ranks() : 1;
  // A rank that mpirun bound to its own cores shares them with nobody.
  const bool bound = known && cores < sysconf(_SC_NPROCESSORS_ONLN);
  const int threads = requested > 0
                          ? static_cast<int>(requested)
                          : std::max(1, bound ? cores : cores / ranks);
  at::set_num_threads(threads);
  spdlog::info("threads: {} per rank ({} cores, {} on this host)", threads,
               cores, ranks == 1 ? "1 rank" : fmt::format("{} ranks", ranks));
  return threads;
}

}  // namespace thinwire
