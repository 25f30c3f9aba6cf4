"""FISH at 100 Mbit/s on T5-small shapes, 2 hosts: the masked values alone,
against the dense gradient with the mask applied after it (ours by
`comm.exchange: dense`, and DDP + AdamW as the public code does it)."""

from exchange_rows import setting as s

RATE = "100mbit"


def ours(setting, hosts, data, exchange, steps):
    path, folder = s.config(setting, f"fish-{exchange}", method="fish",
                            data=data, batch=4, steps=steps,
                            comm=dict(exchange=exchange))
    run = s.run_ours(setting, hosts, path, folder)
    run["figures"] = s.medians(run["steps"], (
        "step_ms", "forward_ms", "backward_ms", "comm_ms", "comm_exposed_ms",
        "sent_bytes"))
    return run


def run(setting):
    data = s.shards(128, 32)
    raw = []
    with s.rate_hosts(2, RATE) as hosts:
        for index in range(setting.rounds):
            s.probe(setting, hosts)
            turns = [
                ("delta", lambda: ours(setting, hosts, data, "delta",
                                       setting.steps)),
                ("dense", lambda: ours(setting, hosts, data, "dense", 3)),
                ("ddp", lambda: s.run_ddp(setting, hosts, RATE,
                                          ["--method", "fish"], 2, quiet=1)),
            ]
            record = {}
            for name, turn in turns if index % 2 == 0 else turns[::-1]:
                record[name] = turn()
            raw.append(record)

    def median(key):
        return s.common.median([key(r) for r in raw])

    def ratio(key):
        return median(lambda r: r["delta"]["figures"][key]
                      / r["dense"]["figures"][key])

    step = median(lambda r: r["delta"]["figures"]["step_ms"]) / 1e3
    dense = median(lambda r: r["dense"]["figures"]["step_ms"]) / 1e3
    ddp = median(lambda r: s.common.median(r["ddp"]["step_seconds"]))
    exposed = [median(lambda r: r[n]["figures"]["comm_exposed_ms"])
               for n in ("delta", "dense")]
    against_ddp = median(
        lambda r: r["delta"]["figures"]["step_ms"] / 1e3
        / s.common.median(r["ddp"]["step_seconds"]))
    return [
        s.at_most("FISH at 100 Mbit/s: communication / dense's",
                  ratio("comm_exposed_ms"), 1 / 100, digits=4,
                  beside=f"{exposed[0]:.0f} of {exposed[1]:.0f} ms"),
        s.at_most("FISH at 100 Mbit/s: step / dense's", ratio("step_ms"),
                  1 / 12, digits=4, beside=f"{step:.2f} of {dense:.2f} s"),
        s.at_most("FISH at 100 Mbit/s: step / DDP's", against_ddp, 1 / 12,
                  digits=4, beside=f"{step:.2f} of {ddp:.2f} s"),
    ], raw
