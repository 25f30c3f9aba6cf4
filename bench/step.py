"""Steps measured against their marks: our own full fine-tuning, and DDP + peft.

  .venv/bin/python bench/step.py --peer-python PY [--rows lora,fish]

Both sides take turns on the same two cores, one thread per rank, on tokens of
fixed length unless a row says so, without dropout unless a row says so, AdamW
with clipping at 1. Every ratio is taken round by round; the table shows the
median round. Needs a machine that does nothing else. PY is a Python with torch
2.11, transformers and peft.

  row       what                                                      minutes
"""

import rows
from step_rows import (cache, families, fish, lora, memory, methods, side,
                       side_peer, sparse, text)

# Row: module, what is measured, minutes on two quiet cores.
ROWS = {
    "lora": (lora, "LoRA step, start and memory against DDP + peft", 6),
    "fish": (fish, "FISH step against the dense gradient under DDP", 4),
    "methods": (methods, "LoRA and FISH against full fine-tuning, ours", 6),
    "families": (families, "every family's step over LoRA's of its size", 10),
    "sparse": (sparse, "SparseAdapter against the dense adapter", 3),
    "text": (text, "LoRA on SST-2 and RTE against length groups", 5),
    "memory": (memory, "peak memory, T5-base, dropout 0.1", 12),
    "side": (side, "a network beside T5-base against full fine-tuning", 6),
    "side_peer": (side_peer, "the same network against plain PyTorch", 5),
    "cache": (cache, "a side network fed from a cache of features", 9),
}

if __name__ == "__main__":
    rows.run(__doc__, ROWS, "step")
