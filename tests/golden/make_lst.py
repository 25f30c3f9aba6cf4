"""Golden data of LST: side stacks that are HF's own, built at a fraction of the
width, with ladders in hooks before their layers, over the hidden states of HF's
frozen model.

Sung, Cho & Bansal 2022: s = mu s + (1 - mu) (W_i h_i + b_i) before side layer i,
mu = sigmoid(alpha_i / 0.1), h_i what the backbone's layer i gives; the decoder's
end goes through one matrix into the frozen head. And where the side's layers
begin (`pruned.INIT.NAME`): a walk along the backbone's matrices that keeps the
columns of what was kept before and the rows with the largest norms."""

import copy

import torch
from torch.nn.functional import linear

from common_peft import contract, load, noise, summed_loss, write

TEMPERATURE = 0.1


class Names:
    """Of HF's tensors, and those that the reference code gives the side's."""

    def __init__(self, bart):
        self.root = "model." if bart else ""
        self.layers = "layers" if bart else "block"

    def stack(self, which):
        return self.root + which

    def entry(self, which, layers, name):
        """name: of the side stack's own state."""
        parts = name.split(".")
        if parts[0] == self.layers:
            parts[:2] = ["side_block", str(layers[int(parts[1])])]
        else:
            assert parts[0] == "final_layer_norm"
            parts[0] = "final_side_layer_norm"
        return ".".join([self.stack(which), *parts])


def narrowed(config, r, layers, bart):
    c = copy.deepcopy(config)
    keys = ["d_model", "d_ff", "d_kv"]
    if bart:
        keys = ["d_model", "encoder_ffn_dim", "decoder_ffn_dim"]
    for key in keys:
        setattr(c, key, getattr(c, key) // r)
    if bart:
        c.encoder_layers, c.decoder_layers = map(len, layers.values())
    return c


def side_stack(model, which, config, layers, bart):
    """One of HF's stacks at the side's width."""
    c = copy.deepcopy(config)
    kind = type(getattr(model.model if bart else model, which))
    if not bart:
        c.is_decoder = which == "decoder"
        c.num_layers = len(layers)
    c._attn_implementation = "eager"
    c.use_cache = False
    return kind(c).eval()


class Side:
    def __init__(self, model, r, layers, seed):
        self.model, self.layers = model, layers
        self.bart = model.config.model_type == "bart"
        self.names = Names(self.bart)
        self.g = torch.Generator().manual_seed(seed)
        self.trained = {}
        wide = model.config
        self.config = narrowed(wide, r, layers, self.bart)
        d, narrow = wide.d_model, self.config.d_model
        self.stacks = {}
        for which, kept in layers.items():
            stack = side_stack(model, which, self.config, kept, self.bart)
            self.stacks[which] = stack
            for name, p in stack.named_parameters():
                if "embed" in name:
                    continue
                value = self.noise(p.shape, 1 if "norm.weight" in name else 0)
                p.data.copy_(value)
                self.trained[self.names.entry(which, kept, name)] = p
            stem = self.names.stack(which) + ".side_"
            self.affine(stem + "first_downsample", narrow, d)
            for i in range(len(self.blocks(self.main(which)))):
                if i in kept:
                    self.affine(f"{stem}downsamples.{i}", narrow, d)
                self.tensor(f"{stem}gate_params.{i}", (1,), 0.05)
        self.affine("side_final_upsample", d, narrow)

    def noise(self, shape, at=0, scale=0.3):
        return at + noise(shape, self.g, scale)

    def tensor(self, name, shape, scale=0.3):
        value = self.noise(shape, scale=scale)
        self.trained[name] = value.requires_grad_(True)

    def affine(self, stem, out, into):
        self.tensor(stem + ".weight", (out, into))
        self.tensor(stem + ".bias", (out,))

    def apply(self, stem, x):
        t = self.trained
        return linear(x, t[stem + ".weight"], t[stem + ".bias"])

    def main(self, which):
        return getattr(self.model.model if self.bart else self.model, which)

    def blocks(self, stack):
        return getattr(stack, self.names.layers)

    def watch(self):
        """What the backbone's layers give, and its embeddings."""
        self.outputs, self.embeddings = {}, {}
        for which in self.layers:
            stack = self.main(which)

            def embedded(module, args, which=which):
                self.embeddings[which] = args[0]

            # Without dropout the first layer reads them as they are.
            self.blocks(stack)[0].register_forward_pre_hook(embedded)
            for i, block in enumerate(self.blocks(stack)):

                def gave(module, args, out, at=(which, i)):
                    h = out[0] if isinstance(out, tuple) else out
                    self.outputs[at] = h

                block.register_forward_hook(gave)

    def run(self, which, mask, memory=None):
        stack, stem = self.stacks[which], self.names.stack(which) + ".side_"
        first = self.apply(stem + "first_downsample", self.embeddings[which])
        handles = []
        for place, layer in enumerate(self.layers[which]):

            def rung(module, args, place=place, layer=layer):
                s = first if place == 0 else args[0]
                gate = self.trained[f"{stem}gate_params.{layer}"]
                mu = torch.sigmoid(gate / TEMPERATURE)
                h = self.outputs[which, layer]
                down = self.apply(f"{stem}downsamples.{layer}", h)
                return (mu * s + (1 - mu) * down, *args[1:])

            block = self.blocks(stack)[place]
            handles.append(block.register_forward_pre_hook(rung))
        more = {}
        if which == "decoder":
            more = dict(
                encoder_hidden_states=memory, encoder_attention_mask=mask
            )
            mask = None
        # BART adds positions and a norm; the first rung leaves none of it.
        out = stack(inputs_embeds=first, attention_mask=mask, **more)
        for handle in handles:
            handle.remove()
        return out.last_hidden_state

    def logits(self, batch):
        self.watch()
        with torch.no_grad():
            self.model(**batch)
        mask = batch["attention_mask"]
        memory = self.run("encoder", mask)
        s = self.run("decoder", mask, memory)
        y = self.apply("side_final_upsample", s)
        if self.bart:
            return self.model.lm_head(y) + self.model.final_logits_bias
        if self.model.config.scale_decoder_outputs:
            y = y * self.model.config.d_model**-0.5
        return self.model.lm_head(y)

    # Where the side's layers begin.

    def fisher(self, batch, samples):
        model = self.model
        for p in model.parameters():
            p.requires_grad_(True)
        sums = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
        for b in range(samples):
            one = {k: v[b : b + 1] for k, v in batch.items()}
            model.zero_grad()
            summed_loss(model(**one).logits, one["labels"]).backward()
            for name, p in model.named_parameters():
                sums[name] += p.grad**2
        for p in model.parameters():
            p.requires_grad_(False)
        return sums

    def pruned(self, importance):
        state = dict(self.model.named_parameters())
        shared = self.names.root + "shared.weight"
        kept = {}  # tensor -> what is kept of it
        first = best(importance[shared].T, self.config.d_model)
        axis = first
        for which in self.layers:
            if self.bart:
                axis = first
            for i in range(len(self.blocks(self.main(which)))):
                layer = f"{self.names.stack(which)}.{self.names.layers}.{i}"
                for sublayer in self.sublayers(layer, which):
                    axis = self.cut(state, importance, axis, kept, *sublayer)
            if not self.bart:
                name = f"{which}.final_layer_norm.weight"
                kept[name] = state[name][axis]
        out = {}
        for which, layers in self.layers.items():
            for name, p in self.stacks[which].named_parameters():
                if "embed" in name:
                    continue
                parts = name.split(".")
                if "relative_attention_bias" not in name:
                    if parts[0] == self.names.layers:
                        parts[1] = str(layers[int(parts[1])])
                    own = kept[".".join([self.names.stack(which), *parts])]
                else:
                    own = state[which + "." + name]
                assert own.shape == p.shape, name
                out[self.names.entry(which, layers, name)] = own.clone()
        return out

    def sublayers(self, layer, which):
        """(matrices that read, matrix that writes, norm, rows between)."""
        c = self.config
        if self.bart:
            inner, ff = c.d_model, getattr(c, which + "_ffn_dim")
            attentions = ["self_attn"] + ["encoder_attn"] * (which == "decoder")
            for a in attentions:
                reads = [f"{layer}.{a}.{n}_proj" for n in "qkv"]
                norm = f"{layer}.{a}_layer_norm"
                yield reads, f"{layer}.{a}.out_proj", norm, inner
            norm = layer + ".final_layer_norm"
            yield [layer + ".fc1"], layer + ".fc2", norm, ff
            return
        inner, n = c.num_heads * c.d_kv, 0
        attentions = ["SelfAttention"] + ["EncDecAttention"] * (
            which == "decoder"
        )
        for a in attentions:
            at = f"{layer}.layer.{n}"
            reads = [f"{at}.{a}.{m}" for m in "qkv"]
            yield reads, f"{at}.{a}.o", at + ".layer_norm", inner
            n += 1
        at = f"{layer}.layer.{n}"
        wi = ["wi_0", "wi_1"] if c.is_gated_act else ["wi"]
        reads = [f"{at}.DenseReluDense.{m}" for m in wi]
        yield reads, f"{at}.DenseReluDense.wo", at + ".layer_norm", c.d_ff

    def cut(self, state, importance, axis, kept, reads, out, norm, inner):
        if not self.bart:
            kept[norm + ".weight"] = state[norm + ".weight"][axis]
        product = 1
        for m in reads:
            product = product * importance[m + ".weight"].double()[:, axis]
        rows = best(product, inner)
        for m in reads:
            kept[m + ".weight"] = state[m + ".weight"][rows][:, axis]
        ends = best(importance[out + ".weight"].double()[:, rows], len(axis))
        kept[out + ".weight"] = state[out + ".weight"][ends][:, rows]
        if self.bart:
            for m in reads:
                kept[m + ".bias"] = state[m + ".bias"][rows]
            kept[out + ".bias"] = state[out + ".bias"][ends]
            for part in (".weight", ".bias"):
                kept[norm + part] = state[norm + part][ends]
        return ends


def best(importance, count):
    """Rows with the largest L1 norms, none of them a near tie."""
    norms = importance.double().abs().sum(1)
    ranked = norms.sort(descending=True)
    if count < len(norms):
        last, next_one = ranked.values[count - 1 : count + 1]
        assert (last - next_one) / last > 1e-4, "a near tie"
    return ranked.indices[:count].sort().values


def make(name, model_name, r, layers, seed):
    model, batch = load(model_name)
    side = Side(model, r, layers, seed)
    pruned = {}
    weights = dict(model.named_parameters())
    for init, importance in (
        ("magnitude", {n: p.abs() for n, p in weights.items()}),
        ("fisher", side.fisher(batch, samples=3)),
    ):
        for key, value in side.pruned(importance).items():
            pruned[f"pruned.{init}.{key}"] = value
    logits = side.logits(batch)
    summed_loss(logits, batch["labels"]).backward()
    for key, p in side.trained.items():
        if p.grad is None:  # gates of layers without a side
            assert "gate" in key, key
            p.grad = torch.zeros_like(p)
    config = {
        "reduction_factor": r,
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "samples": 3,
    }
    write(name, model_name, "lst", config, logits, side.trained, pruned)


def layers(encoder, decoder):
    return {"encoder": encoder, "decoder": decoder}


make("lst_t5", "t5_tied", 2, layers([0, 2], [1]), 51)
make("lst_t5_gated", "t5_gated", 3, layers([1, 2], [0, 1]), 52)
make("lst_bart", "bart_text", 2, layers([1], [0, 2]), 53)


def counts(kept, r=8):
    return {
        "reduction_factor": r,
        "encoder_layers": kept,
        "decoder_layers": kept,
    }


contract(
    "lst_t5",
    {"reduction_factor": 2, "encoder_layers": [1], "samples": 3},
    start="another",
    architectures=["bart", "t5"],
    counts=[
        ("t5-base", counts([1, 2, 3, 5, 6, 7, 9, 10, 11]), 3_878_712),
        ("t5-base", {}, 5_097_240),
        ("t5-base", counts([2, 3, 6, 7, 10, 11]), 2_660_184),
        ("t5-base", counts([3, 7, 11]), 1_441_656),
        ("t5-base", {"reduction_factor": 4}, 16_386_072),
        ("t5-large", counts(list(range(1, 24, 2))), 9_057_328),
        ("t5-3b", counts([23]), 2_494_896),
    ],
)
