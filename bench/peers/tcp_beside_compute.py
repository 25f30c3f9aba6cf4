"""Peer: what two plain TCP streams, one each way, cost the thread that computes
beside them: threads that block in send and recv, nothing else.

  RANK=0 WORLD_SIZE=2 MASTER_ADDR=… MASTER_PORT=… tcp_beside_compute.py \\
      --compute-ms 400 --rounds 12 --out FILE
"""

import argparse
import json
import os
import socket
import threading
import time

import torch

CHUNK = 256 << 10


def connect(rank, address, port):
    if rank == 0:
        server = socket.create_server((address, port))
        return server.accept()[0]
    for _ in range(100):
        try:
            return socket.create_connection((address, port))
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nobody listens at {address}:{port}")


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--compute-ms", type=float, default=400)
    p.add_argument("--rounds", type=int, default=12)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    data = connect(rank, os.environ["MASTER_ADDR"],
                   int(os.environ["MASTER_PORT"]))
    flowing = threading.Event()

    def send():
        block = bytes(CHUNK)
        while True:
            flowing.wait()
            try:
                data.sendall(block)
            except OSError:  # the other rank has ended
                return

    def receive():
        block = bytearray(CHUNK)
        try:
            while data.recv_into(block):
                pass
        except OSError:
            pass

    for body in (send, receive):
        threading.Thread(target=body, daemon=True).start()

    a = torch.full((256, 256), 0.001)
    b, out = a.clone(), torch.zeros(256, 256)

    def work(products):
        begin = time.perf_counter()
        for _ in range(products):
            torch.mm(a, b, out=out)
        return time.perf_counter() - begin

    work(50)
    products = max(1, int(50 * args.compute_ms / 1e3 / work(50)))
    alone, beside = [], []
    for _ in range(args.rounds):
        flowing.clear()
        time.sleep(0.5)  # until what is on its way has arrived
        alone.append(work(products))
        flowing.set()
        time.sleep(0.3)
        beside.append(work(products))
    slowed = sorted(b / a - 1 for a, b in zip(alone, beside))
    with open(f"{args.out}.{rank}", "w") as f:
        json.dump(dict(alone_s=alone, beside_s=beside,
                       slowed=slowed[len(slowed) // 2]), f)
    time.sleep(1)  # the other rank measures beside this one's stream
    os._exit(0)  # threads that block


if __name__ == "__main__":
    main()
