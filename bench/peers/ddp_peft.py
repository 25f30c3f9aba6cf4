"""Peer: PyTorch DDP (gloo) + HF transformers + HF peft on the same shapes.

  torchrun --nproc-per-node 2 bench/peers/ddp_peft.py --steps 8 --out FILE

or, one process at a time, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in
the environment. Rank 0 writes one JSON object:

  step_seconds, forward_seconds, backward_seconds   after warm-up
  quiet_backward_seconds  of --quiet steps without exchange (no_sync)
  first_step_seconds      from THINWIRE_T0 (environment, seconds since the
                          epoch) to the end of the first optimizer step
  peak_rss_bytes          of the training steps alone
  interface               bytes at --interface: until DDP was constructed, and
                          of all steps after warm-up
  trainable, payload_bytes

Method fish is what the public FISH code does: every parameter trains, DDP
exchanges the dense gradient, a mask of 0.5 % is multiplied in before AdamW. The
mask here is random: neither bytes nor time depend on which entries it keeps.
"""

import argparse
import contextlib
import json
import os
import time

import torch
import torch.distributed as dist
import transformers
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from torch.nn.parallel import DistributedDataParallel

SHAPES = {
    "t5-small": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6,
                     num_heads=8),
    "t5-base": dict(d_model=768, d_kv=64, d_ff=3072, num_layers=12,
                    num_heads=12),
}


def status(key):
    with open("/proc/self/status") as f:
        for line in f:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(key)


def interface(name):
    """Bytes and packets so far, headers included; zeros without a name."""
    with open("/proc/net/dev") as f:
        for line in f:
            if name and line.strip().startswith(name + ":"):
                n = [int(x) for x in line.split(":")[1].split()]
                return dict(rx=n[0], tx=n[8], rx_packets=n[1],
                            tx_packets=n[9])
    return dict(rx=0, tx=0, rx_packets=0, tx_packets=0)


def difference(after, before):
    return {k: after[k] - before[k] for k in after}


def batch(args, step, rank, world):
    g = torch.Generator().manual_seed(1000 + step * world + rank)
    ids = torch.randint(2, 32100, (args.batch, args.input), generator=g)
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                labels=torch.randint(2, 32100, (args.batch, args.target),
                                     generator=g))


def build(args):
    """(model, masks by parameter, or none)"""
    torch.manual_seed(1)
    dtype = torch.bfloat16 if args.dtype == "bf16" else torch.float32
    if args.model_folder:
        model = transformers.T5ForConditionalGeneration.from_pretrained(
            args.model_folder, dtype=dtype)
    else:
        config = transformers.T5Config(
            vocab_size=32128, dropout_rate=args.dropout, use_cache=False,
            decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
            **SHAPES[args.model])
        model = transformers.T5ForConditionalGeneration(config).to(dtype)
    masks = {}
    kind = dict(task_type="SEQ_2_SEQ_LM")
    tuners = dict(
        lora=lambda: LoraConfig(r=8, lora_alpha=16, target_modules=["q", "v"],
                                **kind),
        ia3=lambda: IA3Config(**kind),
        # One submodule: peft's default of two holds as many rows again that
        # never get a gradient.
        prompt_tuning=lambda: PromptTuningConfig(
            num_virtual_tokens=20, num_transformer_submodules=1, **kind))
    if args.method in tuners:
        model = get_peft_model(model, tuners[args.method]())
    elif args.method == "fish":
        g = torch.Generator().manual_seed(7)
        masks = {q: (torch.rand(q.shape, generator=g) < 0.005).to(q.dtype)
                 for q in model.parameters()}
    model.train()
    return model, masks


def wait_at_gate(args, rank):
    """Tells whoever started this that it is ready, and waits for the sign."""
    if not args.gate:
        return
    with open(f"{args.gate}.ready.{rank}", "w") as f:
        f.write(str(os.getpid()))
    while not os.path.exists(args.gate + ".go"):
        time.sleep(0.02)
    dist.barrier()


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="t5-small", choices=SHAPES)
    p.add_argument("--model-folder", help="an HF folder instead of --model")
    p.add_argument("--method", default="lora", choices=(
        "lora", "ia3", "prompt_tuning", "fish", "full"))
    p.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"))
    p.add_argument("--batch", type=int, default=4, help="samples per rank")
    p.add_argument("--input", type=int, default=128, help="tokens")
    p.add_argument("--target", type=int, default=32, help="tokens")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--quiet", type=int, default=0, help="steps, at the end")
    p.add_argument("--bucket-mb", type=float, default=25.0)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--interface", default="")
    p.add_argument("--no-barrier", action="store_true",
                   help="between steps: its bytes count at the interface")
    p.add_argument("--gate", help="PREFIX: after warm-up, write PREFIX.ready.R "
                   "and wait for PREFIX.go")
    p.add_argument("--out", required=True)
    args = p.parse_args()

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(args.threads)
    at_launch = interface(args.interface)
    dist.init_process_group("gloo")
    model, masks = build(args)
    trainable = [q for q in model.parameters() if q.requires_grad]
    net = DistributedDataParallel(model, gradient_as_bucket_view=True,
                                  bucket_cap_mb=args.bucket_mb)
    dist.barrier()
    at_start = difference(interface(args.interface), at_launch)
    optimizer = torch.optim.AdamW(trainable, lr=3e-4, weight_decay=0.0,
                                  fused=True)
    first = None

    def step(index, exchange=True):
        """(step, forward, backward) seconds."""
        nonlocal first
        data = batch(args, index, rank, world)
        if not args.no_barrier:
            dist.barrier()  # a slow peer's last step is not counted here
        sync = contextlib.nullcontext() if exchange else net.no_sync()
        begin = time.perf_counter()
        with sync:
            loss = net(**data).loss
            forward = time.perf_counter() - begin
            loss.backward()
        backward = time.perf_counter() - begin - forward
        for q, mask in masks.items():
            q.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if first is None:
            first = time.time() - float(os.environ.get("THINWIRE_T0", "nan"))
        return time.perf_counter() - begin, forward, backward

    for index in range(args.warmup):
        step(index)
    wait_at_gate(args, rank)
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak of training steps, not of building
    before = interface(args.interface)
    rows = [step(args.warmup + i) for i in range(args.steps)]
    dist.barrier()
    in_steps = difference(interface(args.interface), before)
    quiet = [step(5000 + i, exchange=False) for i in range(args.quiet)]
    every = [None] * world
    dist.all_gather_object(every, dict(peak=status("VmHWM"),
                                       start=at_start, steps=in_steps))
    if rank == 0:
        record = dict(
            versions={"torch": torch.__version__,
                      "transformers": transformers.__version__},
            threads=torch.get_num_threads(), ranks=world,
            step_seconds=[r[0] for r in rows],
            forward_seconds=[r[1] for r in rows],
            backward_seconds=[r[2] for r in rows],
            quiet_backward_seconds=[r[2] for r in quiet],
            first_step_seconds=first,
            peak_rss_bytes=max(e["peak"] for e in every),
            interface=dict(start=[e["start"] for e in every],
                           steps=[e["steps"] for e in every]),
            trainable=sum(q.numel() for q in trainable),
            payload_bytes=sum(q.numel() * q.element_size()
                              for q in trainable))
        with open(args.out, "w") as f:
            json.dump(record, f)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
