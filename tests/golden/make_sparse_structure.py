"""Golden data of structures: low-rank paths, low-rank adapters, biases and gains
that hooks add to tiny T5 and BERT models, at some modules and not at others.

The count is that of the structure that the authors publish as the mean of all
their tasks' (S3Delta, structure_config/avg/all_tasks_avg.json), on T5-large."""

import torch

from common_peft import contract, load, run, write
from common_structure import FACTOR, Adder


def make(name, model_name, config, ends, seed):
    model, batch = load(model_name)
    adder = Adder(model, torch.Generator().manual_seed(seed))
    adder.add(config, ends)
    for key, p in model.named_parameters():
        if key.startswith("classifier"):
            adder.trained[key] = p.requires_grad_(True)
    config = {**config, "reduction_factor": FACTOR}
    logits = run(model, batch)
    write(name, model_name, "sparse_structure", config, logits, adder.trained)


make(
    "sparse_structure_t5",
    "t5_tied",
    {
        "lora": [
            "encoder.block.1.layer.0.SelfAttention.q",
            "decoder.block.0.layer.2.DenseReluDense.wi",
        ],
        "adapter": ["encoder.block.0.layer.0", "decoder.block.1.layer.2"],
        "bias": [
            "encoder.block.0.layer.1.DenseReluDense.wi",
            "encoder.block.1.layer.0.layer_norm",
            "decoder.block.0.layer.1.layer_norm",
            "decoder.final_layer_norm",
        ],
        "gain": [
            "encoder.final_layer_norm",
            "decoder.block.1.layer.0.layer_norm",
        ],
    },
    {
        "encoder.block.0.layer.0": "encoder.block.0.layer.0.SelfAttention",
        "decoder.block.1.layer.2": "decoder.block.1.layer.2.DenseReluDense",
    },
    seed=5,
)
make(
    "sparse_structure_bert",
    "bert_classify",
    {
        "lora": ["bert.encoder.layer.0.attention.self.query"],
        "adapter": [
            "bert.encoder.layer.0.output",
            "bert.encoder.layer.1.attention.output",
        ],
        "bias": [
            "bert.embeddings.LayerNorm",
            "bert.encoder.layer.0.attention.output.LayerNorm",
            "bert.encoder.layer.1.intermediate.dense",
        ],
        "gain": ["bert.encoder.layer.1.output.LayerNorm"],
    },
    {
        "bert.encoder.layer.0.output": "bert.encoder.layer.0.output.dense",
        "bert.encoder.layer.1.attention.output": (
            "bert.encoder.layer.1.attention.output.dense"
        ),
    },
    seed=6,
)

norms = (
    [f"encoder.block.{i}.layer.0" for i in (16, 21, 22, 23)]
    + [f"decoder.block.{i}.layer.0" for i in range(7, 24)]
    + [f"decoder.block.{i}.layer.1" for i in range(1, 24)]
)
published = {
    "found_on": "t5, 24 + 24 layers of width 1024",
    "lora": [
        *(f"encoder.block.{i}.layer.0.SelfAttention.q" for i in (21, 22, 23)),
        *(
            f"decoder.block.{i}.layer.0.SelfAttention.q"
            for i in (12, 17, 19, 20, 21, 22, 23)
        ),
        "decoder.block.20.layer.2.DenseReluDense.wi",
    ],
    "adapter": [
        "encoder.block.23.layer.0",
        "encoder.block.23.layer.1",
        *(f"decoder.block.{i}.layer.2" for i in (3, 4, 5, 6, 21, 22)),
    ],
    "bias": [
        *(name + ".layer_norm" for name in norms),
        "encoder.final_layer_norm",
        "decoder.final_layer_norm",
    ],
    "gain": [
        "encoder.block.22.layer.0.layer_norm",
        "encoder.block.23.layer.0.layer_norm",
        "encoder.final_layer_norm",
        "decoder.final_layer_norm",
    ],
}
contract(
    "sparse_structure_t5",
    {"reduction_factor": 4},
    counts=[("t5-large", published, 102_144)],
)
