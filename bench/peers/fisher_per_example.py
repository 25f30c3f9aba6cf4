"""Peer: a FISH mask as its definition reads, in PyTorch with HF transformers.

  python bench/peers/fisher_per_example.py --samples 128 --out FILE

One example at a time: forward, backward, and every parameter's gradient squared
into a vector of scores; then the largest scores by torch.topk over all of them.
Writes one JSON object:

  scoring_seconds, top_k_seconds
  idle_bytes, peak_bytes   resident, before the model was built and the highest
                           while scoring; top_k_peak_bytes while choosing
"""

import argparse
import json
import time

import torch
import transformers

from ddp_peft import SHAPES, status


def reset_peak():
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")


def example(args, i):
    g = torch.Generator().manual_seed(1000 + i)
    ids = torch.randint(2, 32100, (1, args.input), generator=g)
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                labels=torch.randint(2, 32100, (1, args.target), generator=g))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="t5-small", choices=SHAPES)
    p.add_argument("--samples", type=int, default=128)
    p.add_argument("--input", type=int, default=128, help="tokens")
    p.add_argument("--target", type=int, default=32, help="tokens")
    p.add_argument("--density", type=float, default=0.005)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    idle = status("VmRSS")
    torch.manual_seed(1)
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(
        vocab_size=32128, use_cache=False, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, **SHAPES[args.model])).eval()
    scores = {n: torch.zeros_like(q) for n, q in model.named_parameters()}
    model(**example(args, -1)).loss.backward()
    model.zero_grad(set_to_none=True)

    reset_peak()
    begin = time.perf_counter()
    for i in range(args.samples):
        model(**example(args, i)).loss.backward()
        for name, q in model.named_parameters():
            scores[name].add_(q.grad.square())
        model.zero_grad(set_to_none=True)
    scoring = time.perf_counter() - begin
    peak = status("VmHWM")

    reset_peak()
    begin = time.perf_counter()
    flat = torch.cat([s.reshape(-1) for s in scores.values()])
    chosen = torch.topk(flat, int(args.density * flat.numel())).indices
    top_k = time.perf_counter() - begin
    with open(args.out, "w") as f:
        json.dump(dict(
            versions={"torch": torch.__version__,
                      "transformers": transformers.__version__},
            threads=torch.get_num_threads(), parameters=flat.numel(),
            chosen=chosen.numel(), scoring_seconds=scoring,
            top_k_seconds=top_k, idle_bytes=idle, peak_bytes=peak,
            top_k_peak_bytes=status("VmHWM")), f)


if __name__ == "__main__":
    main()
