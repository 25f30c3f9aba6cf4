"""Bytes: TCP payload against 2 (P - 1) / P · 4k, interface bytes against DDP's.

Two runs of different length on an unlimited link; their difference over the
difference in steps is what one step costs, launch and checkpoint cancelled.
"""

from exchange_rows import setting as s

FEW, MANY = 4, 24
# Times the formula: fp32, and what the codecs make of it.
MARKS = {"fp32": 1.03, "bf16": 1.03 / 2, "int8": 0.27}


def per_step(setting, hosts, data, method, codec):
    runs = []
    for steps in (FEW, MANY):
        path, folder = s.config(setting, f"payload-{steps}", method=method,
                                data=data, batch=1, steps=steps,
                                comm=dict(codec=codec))
        runs.append(s.run_ours(setting, hosts, path, folder))
    few, many = runs
    hosts_of = s.difference(many["interfaces"], few["interfaces"])
    n = (MANY - FEW) * hosts.count
    k = many["summary"]["trainable_parameters"]
    return dict(
        method=method, codec=codec, ranks=hosts.count, k=k,
        formula=2 * (hosts.count - 1) / hosts.count * 4 * k,
        payload=sum(map(s.payload_sent, hosts_of)) / n,
        interface=sum(h["tx"] for h in hosts_of) / n,
        counted=s.common.median([x["sent_bytes"] for x in many["steps"]]))


def run(setting):
    data = s.shards(32, 8)
    raw, figures = [], []
    for ranks in (2, 4):
        with s.rate_hosts(ranks) as hosts:
            for method, codec in (("lora", "fp32"), ("fish", "fp32"),
                                  ("lora", "bf16"), ("lora", "int8")):
                row = per_step(setting, hosts, data, method, codec)
                raw.append(row)
                figures.append(s.at_most(
                    f"TCP payload / formula, {method} {codec}, P {ranks}",
                    row["payload"] / row["formula"], MARKS[codec],
                    beside=f"k {row['k']}, {row['payload']:.0f} B a step",
                    digits=4))
                if (method, codec) != ("lora", "fp32"):
                    continue
                ddp = s.run_ddp(setting, hosts, None,
                                ["--batch", 1, "--input", 32, "--target", 8,
                                 "--no-barrier"], MANY)
                sent = sum(h["tx"] for h in ddp["interface"]["steps"])
                theirs = sent / MANY / ranks
                assert ddp["trainable"] == row["k"]
                raw.append(dict(peer="ddp", ranks=ranks, interface=theirs,
                                record=ddp))
                figures.append(s.at_most(
                    f"interface bytes / DDP's, lora fp32, P {ranks}",
                    row["interface"] / theirs, 1.01,
                    beside=f"DDP {theirs:.0f} B a step", digits=4))
    return figures, raw
