"""Backbone weights in fp32, bf16 and int8 on one data set, MiniLM, 2 ranks.

  .venv/bin/python bench/sst2_dtype.py --train TRAIN.tsv --eval DEV.tsv

LoRA and FISH at the learning rates that sst2_grid.py found best for fp32, 600
steps of 32 samples in all. The table gives each accuracy's distance from that
in fp32 (the mean over the seeds), in standard errors of one accuracy over
--eval-samples; mark: 2. Runs that are already in the result file are not
repeated.
"""

import math

from common import machine, save, table
from sst2_grid import begin, parser, run

RATES = {"lora": 1e-3, "fish": 2e-3}
DTYPES = ["fp32", "bf16", "int8"]


def main():
    p = parser(__doc__, 600, [1, 2], "sst2_dtype.json")
    p.add_argument("--methods", nargs="+", default=list(RATES), choices=RATES)
    args = p.parse_args()
    model, runs = begin(args)

    def once(method, dtype, seed):
        for r in runs:
            if (r["method"], r["dtype"], r["seed"], r["steps"]) == (
                    method, dtype, seed, args.steps):
                return r
        r = dict(run(args, model, method, RATES[method], args.steps, seed,
                     dtype=dtype), dtype=dtype)
        runs.append(r)
        print(f"{method:5} {dtype} seed {seed}: accuracy {r['accuracy']:.4f}  "
              f"({r['seconds']:.0f} s)", flush=True)
        save(args.name, dict(machine=machine(), arguments=vars(args),
                             runs=runs))
        return r

    rows = [("method", "weights", "seeds", "accuracy", "less fp32",
             "standard errors", "mark")]
    for method in args.methods:
        means = {}
        for dtype in DTYPES:
            got = [once(method, dtype, s)["accuracy"] for s in args.seeds]
            means[dtype] = sum(got) / len(got)
            less = means[dtype] - means["fp32"]
            error = math.sqrt(means["fp32"] * (1 - means["fp32"]) /
                              args.eval_samples)
            rows.append((method, dtype, " ".join(f"{a:.4f}" for a in got),
                         f"{means[dtype]:.4f}", f"{less:+.4f}",
                         f"{less / error:+.2f}", ">= -2"))
    table(rows)


if __name__ == "__main__":
    main()
