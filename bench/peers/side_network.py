"""Peer: ladder side-tuning of HF's T5 in plain PyTorch, one process.

  PY bench/peers/side_network.py --steps 2 --out FILE

A frozen T5-base of random weights runs under no_grad; beside its encoder and its
decoder stand blocks of HF's own T5 of an eighth of the width, which read, through
gates and down-projections, the hidden states of the layers in --layers; the side's
output is projected up and goes through the frozen output matrix. Writes a JSON
object: step_seconds after one step to warm up, peak_rss_bytes of the steps alone,
trainable.
"""

import argparse
import json
import time

import torch
import transformers
from torch import nn
from transformers.models.t5.modeling_t5 import T5Stack

D, HEADS, FACTOR, VOCABULARY = 768, 12, 8, 32128


def t5_config(**changes):
    shape = dict(vocab_size=VOCABULARY, d_model=D, d_kv=64, d_ff=3072,
                 num_layers=12, num_heads=HEADS, use_cache=False,
                 decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
    return transformers.T5Config(**{**shape, **changes})


class Ladder(nn.Module):
    """One stack's: its blocks are run one by one."""

    def __init__(self, layers, decoder, dropout):
        super().__init__()
        d = D // FACTOR
        config = t5_config(vocab_size=2, d_model=d, d_kv=d // HEADS,
                           d_ff=3072 // FACTOR, num_layers=len(layers),
                           dropout_rate=dropout, is_decoder=decoder,
                           is_encoder_decoder=False)
        self.layers = layers
        self.stack = T5Stack(config)
        self.down = nn.ModuleList(nn.Linear(D, d) for _ in range(
            len(layers) + 1))
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(()))
                                      for _ in layers)

    def forward(self, states, mask, encoded=None):
        """states: the embeddings and every layer's output, no graph."""
        h = self.stack.dropout(self.down[0](states[0]))
        bias = cross = None
        for i, layer in enumerate(self.layers):
            gate = torch.sigmoid(self.gates[i])
            h = gate * h + (1 - gate) * self.down[i + 1](states[layer + 1])
            out = self.stack.block[i](
                h, attention_mask=mask, position_bias=bias,
                encoder_hidden_states=encoded,
                encoder_decoder_position_bias=cross, use_cache=False)
            h, bias = out[0], out[1]
            if encoded is not None:
                cross = out[2]
        return self.stack.dropout(self.stack.final_layer_norm(h))


class Side(nn.Module):
    def __init__(self, layers, dropout):
        super().__init__()
        self.encoder = Ladder(layers, False, dropout)
        self.decoder = Ladder(layers, True, dropout)
        self.up = nn.Linear(D // FACTOR, D)

    def forward(self, source, target):
        n = target[0].shape[1]
        causal = torch.full((n, n), torch.finfo(torch.float32).min).triu(1)
        encoded = self.encoder(source, None)
        return self.up(self.decoder(target, causal[None, None], encoded))


def high_water():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f
                    if line.startswith("VmHWM"))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--layers", default="1,2,3,5,6,7,9,10,11",
                   help="that have a side layer, of 0 to 11")
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--input", type=int, default=256, help="tokens")
    p.add_argument("--target", type=int, default=32, help="tokens")
    p.add_argument("--dropout", type=float, default=0.1)
    p.add_argument("--steps", type=int, default=2)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = transformers.T5ForConditionalGeneration(t5_config())
    model.requires_grad_(False).eval()
    side = Side(list(map(int, args.layers.split(","))), args.dropout).train()
    optimizer = torch.optim.AdamW(side.parameters(), lr=3e-4, weight_decay=0.0,
                                  fused=True)

    def step():
        begin = time.perf_counter()
        ids = torch.randint(2, 32100, (args.batch, args.input))
        labels = torch.randint(2, 32100, (args.batch, args.target))
        with torch.no_grad():
            encoded = model.encoder(input_ids=ids, output_hidden_states=True)
            decoded = model.decoder(
                input_ids=model._shift_right(labels), use_cache=False,
                encoder_hidden_states=encoded.last_hidden_state,
                output_hidden_states=True)
            states = encoded.hidden_states, decoded.hidden_states
            del encoded, decoded
        hidden = side(*states) * D ** -0.5
        loss = nn.functional.cross_entropy(
            model.lm_head(hidden).flatten(0, 1), labels.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(side.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - begin

    step()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak of training steps, not of building
    seconds = [step() for _ in range(args.steps)]
    with open(args.out, "w") as f:
        json.dump(dict(
            versions={"torch": torch.__version__,
                      "transformers": transformers.__version__},
            step_seconds=seconds, peak_rss_bytes=high_water(),
            trainable=sum(q.numel() for q in side.parameters())), f)


if __name__ == "__main__":
    main()
