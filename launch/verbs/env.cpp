// thinwire env: versions and what this machine has, for bug reports.
#include <fmt/format.h>
#include <hdf5.h>
#include <mpi.h>
#include <sched.h>
#include <torch/version.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <thread>

#include "base/isa.h"
#include "comm/communicator.h"
#include "comm/cuda_library.h"
#include "comm/mpi_device.h"
#include "launch/job.h"
#include "launch/progress.h"
#include "launch/report.h"
#include "launch/verbs/verbs.h"
#include "launch/version.h"

namespace thinwire {
namespace {

// The value of the first "key : value" line.
std::string line_of(const char* path, std::string_view key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t value = line.find_first_not_of(" \t:", key.size());
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "unknown";
}

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string version(text, static_cast<std::size_t>(length));
  return version.substr(0, version.find_first_of(",\n"));
}

std::string cpu_features() {
  const std::string flags = " " + line_of("/proc/cpuinfo", "flags") + " ";
  std::string out;
  for (const char* name :
       {"avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16"}) {
    if (flags.find(std::string(" ") + name + " ") != std::string::npos) {
      out += (out.empty() ? "" : " ") + std::string(name);
    }
  }
  return out;
}

int run(const Arguments&, Communicator& comm) {
  cpu_set_t cpus;
  const int cores =
      sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 0;
  const double memory = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                        static_cast<double>(sysconf(_SC_PAGESIZE));
  unsigned hdf5[3];
  H5get_libversion(&hdf5[0], &hdf5[1], &hdf5[2]);
  const std::string text = format_table({
      {"thinwire", kVersion},
      {"compiler", __VERSION__},
      {"LibTorch", TORCH_VERSION},
      {"MPI", mpi_version()},
      {"HDF5", fmt::format("{}.{}.{}", hdf5[0], hdf5[1], hdf5[2])},
      {"CPU", line_of("/proc/cpuinfo", "model name")},
      {"CPU features", cpu_features()},
      {"kernels for", std::string(name_of(isa()))},
      {"cores", fmt::format("{} usable of {}", cores,
                            std::thread::hardware_concurrency())},
      {"memory", human_bytes(memory)},
      {"GPU", describe_gpus()},
      {"GPU library", describe_cuda_library()},
      {"MPI takes GPU memory", describe_mpi_device_memory()},
      {"ranks", fmt::format("{} ({} on this host, backend {})", comm.size(),
                            local_ranks(), comm.backend())},
  });
  if (comm.rank() == 0) std::fputs(text.c_str(), stdout);
  return kExitDone;
}

}  // namespace

constexpr Verb kEnvVerb{"env",
                        "versions, MPI, CPU, GPU and memory",
                        "Put its output into a bug report.\n"
                        "Example:\n"
                        "  mpirun -np 2 thinwire env",
                        {},
                        &run};

}  // namespace thinwire
