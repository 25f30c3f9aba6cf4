"""What comm.codec does to the loss of a trained model, MiniLM, 2 ranks.

  .venv/bin/python bench/codec_loss.py --train TRAIN.tsv --eval DEV.tsv

Every codec with the same seeds, those of one seed one after the other; the
loss is the one over the evaluation set after the last step. A codec passes when
its mean lies within two standard errors of fp32's. Runs that are already in the
result file are not repeated.
"""

import statistics

import sst2_grid
from common import machine, save, table

CODECS = ("fp32", "bf16", "int8")


def main():
    p = sst2_grid.parser(__doc__, 300, [1, 2, 3, 4, 5], "codec_loss.json")
    p.add_argument("--method", default="fish_no_pooler",
                   choices=list(sst2_grid.METHODS))
    p.add_argument("--lr", type=float, default=1e-3)
    args = p.parse_args()
    model, runs = sst2_grid.begin(args)
    wanted = [dict(codec=codec, method=args.method, lr=args.lr,
                   steps=args.steps, seed=seed)
              for seed in args.seeds for codec in CODECS]

    def of(want):
        return next((r for r in runs
                     if all(r[key] == want[key] for key in want)), None)

    for want in wanted:
        if of(want) is not None:
            continue
        r = sst2_grid.run(args, model, args.method, args.lr, args.steps,
                          want["seed"], comm=f"{{codec: {want['codec']}}}")
        runs.append(dict(want, loss=r["evals"][-1][2], accuracy=r["accuracy"],
                         sent_bytes=r["sent_bytes"], losses=r["losses"]))
        print(f"{want['codec']} seed {want['seed']}: loss "
              f"{runs[-1]['loss']:.4f}, accuracy {r['accuracy']:.4f}",
              flush=True)
        save(args.name, dict(machine=machine(), arguments=vars(args),
                             runs=runs))

    rows = [("codec", "loss", "standard error", "from fp32, in them",
             "accuracy", "bytes of fp32's")]
    plain = None
    for codec in CODECS:
        mine = [of(w) for w in wanted if w["codec"] == codec]
        losses = [r["loss"] for r in mine]
        mean = statistics.mean(losses)
        error = statistics.stdev(losses) / len(losses) ** 0.5
        sent = sum(r["sent_bytes"] for r in mine)
        plain = plain or (mean, error, sent)  # fp32 comes first
        rows.append((
            codec, f"{mean:.4f}", f"{error:.4f}",
            f"{(mean - plain[0]) / plain[1]:+.2f}",
            f"{statistics.mean(r['accuracy'] for r in mine):.4f}",
            f"{sent / plain[2]:.3f}"))
    table(rows)


if __name__ == "__main__":
    main()
