"""Golden data of HyperFormer and HyperFormer++: the formula of the released code
in hooks on HF's T5.

Karimi Mahabadi et al. 2021: e = LN(W2 relu(W1 [z; layer; type])), adapters and
their layer norm are linear in e; u + LN(up(gelu_new(down(u)))) on the output of
self-attention and feed-forward, before the residual sum."""

import torch
from torch.nn.functional import gelu, layer_norm, linear

from common_peft import contract, load, noise, run, tasks_of, write

DIM, HIDDEN, M = 4, 6, 3


class Maker:
    def __init__(self, d, plus_plus, seed):
        self.d, self.plus_plus = d, plus_plus
        self.g = torch.Generator().manual_seed(seed)
        self.trained = {}

    def tensor(self, key, *shape, scale=0.4):
        if key not in self.trained:
            value = noise(shape, self.g, scale)
            if key.endswith("LayerNorm.weight"):
                value = 1 + value
            self.trained[key] = value.requires_grad_(True)
        return self.trained[key]

    def layer(self, stem, x, out):
        weight = self.tensor(stem + ".weight", out, x.shape[-1])
        return linear(x, weight, self.tensor(stem + ".bias", out))

    def adapted(self, u, task, stack, layers, layer, sublayer):
        d, net = self.d, stack + ".adapter_layers_hyper_net."
        z = "task_embedding_controller.task_to_embeddings."
        for k in (0, 1):
            self.tensor(z + str(k), DIM)
        about = [self.tensor(z + str(task), DIM)]
        ids = self.tensor(net + "layer_id_embeddings.weight", layers, DIM)
        about.append(ids[layer])
        if self.plus_plus:
            types = self.tensor(net + "adapters_block_type.weight", 2, DIM)
            about.append(types[["feed_forward", "self_attention"].index(sublayer)])
        stem = net + "task_hypernet.task_embeding_generator."
        e = self.layer(stem + "0", torch.cat(about), HIDDEN).relu()
        e = self.layer(stem + "2", e, DIM)
        e = layer_norm(
            e,
            (DIM,),
            self.tensor(net + "LayerNorm.weight", DIM),
            self.tensor(net + "LayerNorm.bias", DIM),
            1e-6,
        )
        if not self.plus_plus:
            net += sublayer + "_"

        def part(name, *shape):
            size = torch.Size(shape).numel()
            return self.layer(net + name, e, size).view(shape)

        down = part("down_sampler_hyper_net.weight_generator.0", M, d)
        down_bias = part("down_sampler_hyper_net.bias_generator.0", M)
        up = part("up_sampler_hyper_net.weight_generator.0", d, M)
        up_bias = part("up_sampler_hyper_net.bias_generator.0", d)
        gain = part("post_layernorm_hypernet.weight_generator", d)
        shift = part("post_layernorm_hypernet.bias_generator", d)
        inner = gelu(linear(u, down, down_bias), approximate="tanh")
        return u + layer_norm(
            linear(inner, up, up_bias), (d,), gain, shift, 1e-5
        )


def make(name, model_name, plus_plus, seed):
    model, batch = load(model_name)
    maker = Maker(20, plus_plus, seed)
    tasks = tasks_of(batch)
    for key, module in model.named_modules():
        parts = key.split(".")
        if parts[-1] != "dropout" or len(parts) != 6:
            continue  # STACK.block.N.layer.M.dropout
        stack, layer, place = parts[0], int(parts[2]), parts[4]
        if stack == "decoder" and place == "1":
            continue  # cross-attention
        sublayer = "self_attention" if place == "0" else "feed_forward"
        layers = len(getattr(model, stack).block)

        def hook(mod, x, u, about=(stack, layers, layer, sublayer)):
            rows = [maker.adapted(u[b], t, *about) for b, t in enumerate(tasks)]
            return torch.stack(rows)

        module.register_forward_hook(hook)
    for key, p in model.named_parameters():
        if "layer_norm" in key:
            maker.trained[key] = p.requires_grad_(True)
    logits = run(model, batch)
    config = {
        "tasks": 2,
        "plus_plus": plus_plus,
        "bottleneck": M,
        "task_dim": DIM,
        "hidden_dim": HIDDEN,
    }
    write(name, model_name, "hyperformer", config, logits, maker.trained)


make("hyperformer_t5_plus_plus", "t5_gated", True, 33)
make("hyperformer_t5", "t5_tied", False, 34)


def counts(**more):
    return {"tasks": 8, **more}


contract(
    "hyperformer_t5_plus_plus",
    {
        "tasks": 2,
        "bottleneck": 3,
        "task_dim": 4,
        "hidden_dim": 6,
        "init_std": 1e-4,
    },
    start="near",
    counts=[
        ("t5-base", counts(), 5_211_056),
        ("t5-base", counts(layer_norms=False), 5_163_440),
        ("t5-base", counts(plus_plus=False), 10_289_376),
        ("t5-base", counts(bottleneck=48), 10_006_496),
        ("t5-3b", counts(), 9_118_144),
        ("t5-3b", counts(plus_plus=False), 18_024_704),
    ],
)
