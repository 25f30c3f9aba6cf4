"""SparseAdapter, 80 % of the weights pruned, against the dense adapter: step,
bytes and optimizer state. T5-small, bottleneck 64, random weights. Biases are
not pruned, so a little more than a fifth is left."""

from step_rows import setting as s

DENSE = "{method: houlsby, bottleneck: 64, layer_norms: false}"
SPARSE = ("{method: sparse_adapter, adapter: " + DENSE +
          ", sparsity: 0.8, score: magnitude}")


def run(setting):
    raw = []
    for _ in range(setting.rounds):
        raw.append({"dense": s.ours(setting, DENSE),
                    "sparse": s.ours(setting, SPARSE)})

    def ratio(name, of, mark, unit, digits):
        return s.compare("SparseAdapter 80 % / dense adapter, " + name,
                         [(of(r["sparse"]), of(r["dense"])) for r in raw],
                         mark, unit, digits)

    def summary(key):
        return lambda run: run["summary"][key]

    return [
        ratio("step", s.seconds, 1.02, "s", 3),
        ratio("bytes of a step", summary("payload_bytes_per_step"), 0.21,
              "bytes", 0),
        # AdamW's two vectors are as long as what trains.
        ratio("optimizer state", summary("trainable_parameters"), 0.21,
              "numbers", 0),
    ], raw
