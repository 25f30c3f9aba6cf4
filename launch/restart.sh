#!/usr/bin/env bash
# Runs a training command and, when it fails for a reason that may pass, starts
# it again from its last checkpoint.
#
#   bash launch/restart.sh [--max-restarts N] [--] COMMAND…
#     --max-restarts N   how often at most (default 3)
#     --grace S          seconds that the launcher has to end after a failure was
#                        reported; then it is killed (default 30)
#   Example:
#     bash launch/restart.sh --max-restarts 5 -- \
#       mpirun -np 2 build/release/thinwire train configs/quickstart_fish.yaml
#
# The command is given `--resume` from the second time on. It is started again
# when a rank or the launcher was lost, stopped, cut off or out of step, out of
# memory, or checkpointed on a signal (exit status 75); not when the cause is
# sure to come again: bad usage, config or input (2), NON_FINITE, DISAGREEMENT,
# a full disk and the like. SIGTERM and SIGINT are passed on and end it all. The
# exit status is that of the last run.
set -uo pipefail

say() { echo "restart: $*" >&2; }
refuse() { echo "error: restart: $*; see --help" >&2; exit 2; }
is_number() { [[ $1 =~ ^[0-9]+$ ]]; }

most=3 grace=30
while (($#)); do
  case $1 in
    --max-restarts | --grace)
      (($# > 1)) && is_number "$2" || refuse "$1 takes a number"
      if [[ $1 == --grace ]]; then grace=$2; else most=$2; fi
      shift 2 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 0 ;;
    --) shift; break ;;
    -*) refuse "unknown option '$1'" ;;
    *) break ;;
  esac
done
(($#)) || refuse 'no command'

folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
mkfifo "$folder/pipe"
asked='' child=''
pass_on() {
  asked=1
  [[ -z $child ]] || kill -TERM "$child" 2> /dev/null
}
trap pass_on TERM INT

cause() {  # by the last line that reports an error
  tail -n 200 "$folder/log" | sed -nE 's/^(\[rank [0-9]+\] )?error: .*\(([A-Z_]+)\)$/\2/p' |
    tail -n 1
}

# A launcher that waits for a host which it cannot reach waits for ever.
run() {
  tee "$folder/log" < "$folder/pipe" >&2 &
  local copy=$! reported=''
  "$@" 2> "$folder/pipe" &
  child=$!
  while kill -0 "$child" 2> /dev/null; do
    sleep 0.2 &
    wait "$!"
    if [[ -z $reported && -n $(cause) ]]; then reported=$SECONDS; fi
    if [[ -n $reported ]] && ((SECONDS - reported > grace)); then
      say "the launcher did not end within $grace s of the failure; killed"
      kill -KILL "$child"
      break
    fi
  done
  wait "$child"
  status=$?
  child=''
  # What still holds the pipe is on its way out.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    kill -0 "$copy" 2> /dev/null || break
    sleep 0.1
  done
  kill "$copy" 2> /dev/null
  wait "$copy" 2> /dev/null
}

resume=()
for ((restarts = 0; ; ++restarts)); do
  : > "$folder/log"
  run "$@" ${resume[@]+"${resume[@]}"}
  why=$(cause)
  ((status == 0 || status == 2)) && exit "$status"
  [[ -z $asked ]] || exit "$status"
  case $why in
    USAGE | IO | DISAGREEMENT | NON_FINITE | INTERNAL | RUN) exit "$status" ;;
  esac
  if ((status == 75)); then why='checkpointed on a signal'; fi
  if ((restarts == most)); then
    say "ended with status $status (${why:-no cause was reported}); given up" \
      "after $restarts restarts"
    exit "$status"
  fi
  say "ended with status $status (${why:-no cause was reported}); starting" \
    "again from the last checkpoint, $((restarts + 1)) of $most"
  resume=(--resume)
  for word in "$@"; do
    if [[ $word == --resume ]]; then resume=(); fi
  done
done
