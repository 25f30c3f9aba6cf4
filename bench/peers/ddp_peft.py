"""Peer: PyTorch DDP (gloo) + HF transformers + HF peft on the same shapes.

  torchrun --nproc-per-node 2 bench/peers/ddp_peft.py --steps 8 --out FILE

Rank 0 writes one JSON object: step seconds after warm-up, seconds from the
launch (environment THINWIRE_T0, seconds since the epoch) to the end of the
first optimizer step, peak resident memory of the training steps, trainable
numbers, bytes of the gradient payload.
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist
import transformers
from peft import LoraConfig, get_peft_model
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


def batch(args, step, rank, world):
    g = torch.Generator().manual_seed(1000 + step * world + rank)
    ids = torch.randint(2, 32100, (args.batch, args.input), generator=g)
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids),
                labels=torch.randint(2, 32100, (args.batch, args.target),
                                     generator=g))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--model", default="t5-small", choices=SHAPES)
    p.add_argument("--batch", type=int, default=4, help="samples per rank")
    p.add_argument("--input", type=int, default=128, help="tokens")
    p.add_argument("--target", type=int, default=32, help="tokens")
    p.add_argument("--steps", type=int, default=8)
    p.add_argument("--warmup", type=int, default=2)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dropout", type=float, default=0.0)
    p.add_argument("--out", required=True)
    args = p.parse_args()

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(args.threads)
    dist.init_process_group("gloo")
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=32128, dropout_rate=args.dropout, use_cache=False,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        **SHAPES[args.model])
    model = get_peft_model(
        transformers.T5ForConditionalGeneration(config),
        LoraConfig(r=8, lora_alpha=16, target_modules=["q", "v"],
                   task_type="SEQ_2_SEQ_LM"))
    model.train()
    trainable = [q for q in model.parameters() if q.requires_grad]
    net = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(trainable, lr=3e-4, weight_decay=0.0,
                                  fused=True)
    seconds, first = [], None
    for step in range(args.warmup + args.steps):
        data = batch(args, step, rank, world)
        dist.barrier()
        if step == args.warmup:
            with open("/proc/self/clear_refs", "w") as f:
                f.write("5")  # the peak of training steps, not of building
        begin = time.perf_counter()
        net(**data).loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        if first is None:
            first = time.time() - float(os.environ["THINWIRE_T0"])
    mine = torch.tensor([float(status("VmHWM"))])
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    if rank == 0:
        record = dict(
            versions={"torch": torch.__version__,
                      "transformers": transformers.__version__},
            threads=torch.get_num_threads(), ranks=world,
            step_seconds=seconds[args.warmup:], first_step_seconds=first,
            peak_rss_bytes=int(mine.item()),
            trainable=sum(q.numel() for q in trainable),
            payload_bytes=4 * sum(q.numel() for q in trainable))
        with open(args.out, "w") as f:
            json.dump(record, f)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
