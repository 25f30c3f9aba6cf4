#!/usr/bin/env bash
# A small T5 of one's own, and data for it, from a bare machine: a tokenizer and
# span corruption of this machine's Debian package descriptions, pre-training of
# all its weights on two MPI ranks, the model as a Hugging Face folder, and four
# text-to-text tasks over the same descriptions.
#
#   bash launch/small_t5.sh [--short] [--data]
#     --short  few steps on few samples: a check, not a result
#     --data   all but the pre-training
#
# Writes model/, corpus/, tasks/NAME/{train,eval} and choose/{train,eval} into
# .cache/small_t5 (.cache/small_t5-short). What is there is kept; a pre-training
# that was broken off goes on from its last checkpoint. Remove the folder and
# runs/small_t5_pretrain to start anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

short='' data=''
while (($#)); do
  case $1 in
    --short) short=-short ;;
    --data) data=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '/^set/d'; exit 0 ;;
    *) echo "error: small_t5: unknown option '$1'; see --help" >&2; exit 2 ;;
  esac
  shift
done
readonly thinwire=build/${THINWIRE_PRESET:-release}/thinwire
readonly cache=.cache/small_t5$short run=runs/small_t5_pretrain$short
readonly tasks=(section:20 role:6 language:6 architecture:2)

say() { printf '\nsmall_t5: %s\n' "$*"; }

# Descriptions with a label: name, classes, file.
describe() {
  .venv/bin/python data/debian_descriptions.py --label "$1" --classes "$2" \
    --output "$3"
  [[ -z $short ]] || sed -i '2001,$d' "$3"
}

# Split by the package's name: no task trains on what another is judged by.
prepare() {
  .venv/bin/python data/prepare.py --tokenizer "$cache" --max-tokens 64 \
    --split train:0.95,eval:0.02,rest:0.03 --split-key name --force "$@"
}

prepare_corpus() {
  [[ ! -f $cache/corpus/train/index.json ]] || return 0
  say 'a tokenizer and a corpus'
  mkdir -p "$cache"
  cp configs/small_t5.json "$cache/config.json"
  describe none 1 "$cache/all.tsv"
  .venv/bin/python data/train_tokenizer.py --input "$cache/all.tsv" \
    --column text --vocabulary 8000 --output "$cache"
  # The texts are short: denser and shorter gaps than T5's.
  prepare --task span_corruption --input "$cache/all.tsv" --columns text \
    --noise-density 0.3 --mean-span 2 --max-target-tokens 64 \
    --output "$cache/corpus"
}

prepare_tasks() {
  local task name
  local -a names
  for task in "${tasks[@]}"; do
    name=${task%:*}
    [[ ! -f $cache/tasks/$name/train/index.json ]] || continue
    say "the task «$name»"
    describe "$name" "${task#*:}" "$cache/$name.tsv"
    prepare --task text_to_text --input "$cache/$name.tsv" \
      --columns "text,$name" --prefix "$name: " --output "$cache/tasks/$name"
  done
  [[ ! -f $cache/choose/train/index.json ]] || return 0
  say 'the sections as a choice'
  mapfile -t names < <(tail -n +2 "$cache/section.tsv" | cut -f3 | sort -u)
  prepare --task choose --input "$cache/section.tsv" --columns text,section \
    --choices "$(IFS=,; echo "${names[*]}")" --prefix 'section: ' \
    --output "$cache/choose"
}

pretrain() {
  [[ ! -f $cache/model/model.safetensors ]] || return 0
  say 'pre-training on two ranks'
  local -a few=("model.config=$cache/config.json"
    "data.train=$cache/corpus/train" "data.eval=$cache/corpus/eval")
  [[ -z $short ]] || few+=(train.steps=4 train.warmup=1 train.eval_samples=64)
  mpirun -np 2 --bind-to none --mca mpi_yield_when_idle 1 \
    --mca btl_base_warn_component_unused 0 \
    "$thinwire" train configs/small_t5_pretrain.yaml --resume \
    train.threads=1 "output=$run" "${few[@]}"
  "$thinwire" merge "$run" --output "$cache/model"
  cp "$cache"/tokenizer*.json "$cache/model"
}

main() {
  bash launch/setup.sh thinwire
  # mpirun refuses root unless it is told twice; in a container root is usual.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  prepare_corpus
  prepare_tasks
  [[ -n $data ]] || pretrain
}

main
