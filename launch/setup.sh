#!/usr/bin/env bash
# Sets up this checkout on Debian 12 or Ubuntu 24.04: Debian packages, the
# Python environment .venv, and a build in build/PRESET. Does what is missing
# and nothing else, so it may be run again at any time, also after a broken run.
#
#   bash launch/setup.sh [TARGET …]     default: everything
#   THINWIRE_PRESET=release|dev|ci|asan (default release)
#   THINWIRE_JOBS=N                     compile jobs (default: by cores, memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly preset=${THINWIRE_PRESET:-release}
readonly packages=(
  g++ cmake ninja-build ccache mold pkg-config
  libopenmpi-dev openmpi-bin libhdf5-dev zlib1g-dev libxxhash-dev libjemalloc-dev
  libyaml-cpp-dev libcli11-dev nlohmann-json3-dev libspdlog-dev libfmt-dev
  libgtest-dev libgmock-dev python3-venv iproute2)

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'error: setup: %s\n' "$*" >&2; exit 2; }

missing_packages() {
  local name
  for name in "${packages[@]}"; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == \
       installed ]] || printf '%s ' "$name"
  done
}

install_packages() {
  command -v dpkg-query > /dev/null ||
    die "this is not Debian or Ubuntu; install the like of: ${packages[*]}"
  local -a missing root=()
  read -ra missing <<< "$(missing_packages)"
  ((${#missing[@]} > 0)) || return 0
  if ((EUID != 0)); then
    if command -v sudo > /dev/null && { [[ -t 0 ]] || sudo -n true; } \
        2> /dev/null; then
      root=(sudo)
    else
      die "packages are missing and there is no root here; have an" \
        "administrator run: apt-get update && apt-get install -y" \
        "--no-install-recommends ${missing[*]}"
    fi
  fi
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qy \
    -o Dpkg::Use-Pty=0 install --no-install-recommends "${missing[@]}"
}

# A venv that was interrupted half-made, or whose Python is gone, is made anew.
make_venv() {
  if ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
    say 'making .venv'
    rm -rf .venv
    python3 -m venv .venv
  fi
  local stamp want
  stamp=.venv/thinwire-requirements
  want=$(sha256sum < launch/requirements.txt)
  if [[ ! -f $stamp || $(< "$stamp") != "$want" ]]; then
    say 'installing Python packages (LibTorch is a download of 0.5 GB)'
    .venv/bin/python -m pip install --no-deps --disable-pip-version-check \
      --progress-bar off -r launch/requirements.txt
    printf '%s\n' "$want" > "$stamp"
  fi
}

# A LibTorch translation unit takes up to 1.5 GB; containers have limits of
# their own.
compile_jobs() {
  local cores mib limit
  cores=$(nproc)
  mib=$(($(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo) / 1024))
  limit=$(cat /sys/fs/cgroup/memory.max 2> /dev/null || echo max)
  if [[ $limit != max ]] && ((limit / 1048576 < mib)); then
    mib=$((limit / 1048576))
  fi
  local jobs=$((mib / 1500))
  ((jobs >= 1)) || jobs=1
  ((jobs <= cores)) || jobs=$cores
  echo "$jobs"
}

build() {
  local log=build/$preset/configure.log
  mkdir -p "build/$preset"
  if ! cmake --preset "$preset" > "$log" 2>&1; then
    cat "$log" >&2
    die "cmake could not configure preset '$preset' (above)"
  fi
  local jobs=${THINWIRE_JOBS:-$(compile_jobs)}
  say "building build/$preset with $jobs jobs"
  cmake --build --preset "$preset" -j "$jobs" --target "$@"
}

timed() {  # NAME COMMAND…: runs it and remembers how long it took
  local began=$SECONDS
  "${@:2}"
  times+="${times:+, }$1 $((SECONDS - began)) s"
}

main() {
  mkdir -p build
  exec 9> build/.setup.lock
  flock -n 9 || { say 'waiting for another set-up of this checkout'; flock 9; }
  times=''
  timed packages install_packages
  timed python make_venv
  timed build build "${@:-all}"
  exec 9>&-
  say "done: $times"
}

main "$@"
