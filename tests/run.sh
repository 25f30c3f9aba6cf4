#!/usr/bin/env bash
# Sets up, builds and runs every test; prints build and test time, and last a
# line `N passed, M failed, K skipped`, with the reasons of the skips.
#
#   bash tests/run.sh [--long]
#     --long   also kill storms over many seeds, and the sanitizer build
#   THINWIRE_PRESET=release|ci|…       build to test (default release)
#   THINWIRE_GOLDEN_PYTHON=PYTHON      has transformers and peft: two golden
#                                      makers run again, peft reads what is
#                                      exported
#   THINWIRE_ADAPTERHUB_PYTHON=PYTHON  has `adapters`, which does the same
#   THINWIRE_ORACLES=1                 makes both out of .venv where they are
#                                      not given (tests/harness/oracle.py)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

long=''
while (($#)); do
  case $1 in
    --long) long=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 0 ;;
    *) echo "error: tests: unknown option '$1'; see --help" >&2; exit 2 ;;
  esac
  shift
done
export THINWIRE_PRESET=${THINWIRE_PRESET:-release}
[[ -z $long ]] || export THINWIRE_LONG=1

began=$SECONDS
bash launch/setup.sh || { status=$?; echo '0 passed, 1 failed, 0 skipped'
                          exit "$status"; }
build_seconds=$((SECONDS - began))

if [[ -n ${THINWIRE_ORACLES:-} ]]; then
  # Without them, and without a network to fetch them by, tests are skipped.
  : "${THINWIRE_GOLDEN_PYTHON=$(.venv/bin/python tests/harness/oracle.py peft)}"
  : "${THINWIRE_ADAPTERHUB_PYTHON=$(
    .venv/bin/python tests/harness/oracle.py adapterhub)}"
  export THINWIRE_GOLDEN_PYTHON THINWIRE_ADAPTERHUB_PYTHON
fi

began=$SECONDS
log=build/$THINWIRE_PRESET/tests.log
passed=0 failed=0 skipped=0

run_ctest() {  # FOLDER: of a build
  ctest --test-dir "$1" --output-on-failure -j "$(nproc)" --no-tests=error \
    --test-output-size-passed 1000000 --test-output-size-failed 1000000 \
    --output-junit tests.xml 2>&1 | tee "$log"
  add "$(.venv/bin/python tests/harness/count.py "$1/tests.xml")"
}

# "PASSED FAILED SKIPPED" onto the sums; anything else is a failure.
add() {
  local -a n
  read -ra n <<< "$1"
  if ((${#n[@]} != 3)); then n=(0 1 0); fi
  passed=$((passed + n[0])) failed=$((failed + n[1])) skipped=$((skipped + n[2]))
}

run_ctest "build/$THINWIRE_PRESET"

PYTHONPATH=$PWD .venv/bin/python tests/harness/run_python.py "$log.python"
add "$(head -n 1 "$log.python")"
reasons=$(tail -n +2 "$log.python" | paste -sd ';')

if [[ -n $long ]]; then
  # Open MPI and LibTorch keep memory until the process ends.
  export ASAN_OPTIONS=detect_leaks=0
  cmake --preset asan > /dev/null && cmake --build --preset asan
  run_ctest build/asan
fi

echo
echo "build $build_seconds s, tests $((SECONDS - began)) s"
echo "$passed passed, $failed failed, $skipped skipped${reasons:+ ($reasons)}"
((failed == 0 && passed > 0))
