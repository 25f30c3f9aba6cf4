"""Peer: torch.distributed.all_reduce over gloo, p50 by size.

  RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… allreduce_gloo.py \\
      --sizes 4,1024,65536 --seconds 1 --out FILE
"""

import argparse
import json
import os
import time

import torch
import torch.distributed as dist


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--sizes", required=True, help="bytes, by commas")
    p.add_argument("--seconds", type=float, default=1.0, help="of each size")
    p.add_argument("--out", required=True)
    args = p.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rows = []
    for size in map(int, args.sizes.split(",")):
        x = torch.zeros(size // 4)
        for _ in range(5):
            dist.all_reduce(x)
        dist.barrier()
        begin = time.perf_counter()
        for _ in range(10):
            dist.all_reduce(x)
        each = torch.tensor([(time.perf_counter() - begin) / 10])
        dist.broadcast(each, 0)
        times = []
        for _ in range(max(10, min(20000, int(args.seconds / each.item())))):
            begin = time.perf_counter()
            dist.all_reduce(x)
            times.append(time.perf_counter() - begin)
        times.sort()
        mine = torch.tensor([times[len(times) // 2],
                             times[len(times) * 95 // 100], times[0]],
                            dtype=torch.float64)
        dist.all_reduce(mine, dist.ReduceOp.MAX)  # the slowest rank
        p50, p95, least = mine.tolist()
        rows.append(dict(bytes=size, p50_s=p50, p95_s=p95, min_s=least,
                         calls=len(times)))
    if int(os.environ["RANK"]) == 0:
        with open(args.out, "w") as f:
            json.dump(dict(torch=torch.__version__, rows=rows), f)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
