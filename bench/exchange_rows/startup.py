"""Bytes a rank receives before step 1: DDP sends every parameter from rank 0,
Thinwire agrees by digest."""

from exchange_rows import setting as s


def ours(setting, hosts, data, model):
    """What host 1 received in a run of one step, less the step's own exchange;
    launch, agreement and the last checkpoint are in it."""
    path, folder = s.config(setting, "startup", model=model, data=data,
                            batch=1, steps=1)
    run = s.run_ours(setting, hosts, path, folder)
    step = run["steps"][0]["received_bytes"]
    return dict(model=model, received=run["interfaces"][1]["rx"], step=step)


def run(setting):
    data = s.shards(32, 8)
    figures, raw = [], []
    with s.rate_hosts(2) as hosts:
        for model in ("t5-small", "t5-base"):
            mine = ours(setting, hosts, data, model)
            ddp = s.run_ddp(setting, hosts, None,
                            ["--model", model, "--batch", 1, "--input", 32,
                             "--target", 8], 1)
            theirs = ddp["interface"]["start"][1]["rx"]
            before = mine["received"] - mine["step"]
            raw.append(dict(ours=mine, ddp=ddp))
            figures.append(s.at_most(
                f"bytes received before step 1 / DDP's, {model}",
                before / theirs, 0.01, digits=5,
                beside=f"{before / 1e3:.0f} kB of {theirs / 1e6:.0f} MB"))
    return figures, raw
