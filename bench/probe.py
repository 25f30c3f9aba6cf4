"""What a TCP link gives: round trips, and a stream both ways at once.

  probe.py serve PORT [MEGABYTES]            on one host
  probe.py ask ADDRESS PORT [MEGABYTES]      on the other; prints JSON

Standard library alone, so that any Python runs it.
"""

import json
import socket
import sys
import threading
import time

PINGS = 300


def connect(address, port):
    end = time.time() + 20
    while True:
        try:
            return socket.create_connection((address, port), timeout=300)
        except OSError:
            if time.time() > end:
                raise
            time.sleep(0.02)


def drain(link, count):
    while count:
        got = len(link.recv(min(count, 1 << 18)))
        if got == 0:
            raise SystemExit("probe: the other side has gone")
        count -= got


def stream(link, count):
    """Seconds until `count` bytes have come in while as many went out."""
    begin = time.perf_counter()
    reader = threading.Thread(target=drain, args=(link, count))
    reader.start()
    link.sendall(bytes(count))
    reader.join()
    return time.perf_counter() - begin


def main():
    serve = sys.argv[1] == "serve"
    port = int(sys.argv[2 if serve else 3])
    count = int(float((sys.argv[3:] if serve else sys.argv[4:] or ["4"])[0])
                * 1e6)
    if serve:
        with socket.create_server(("", port)) as door:
            link, _ = door.accept()
    else:
        link = connect(sys.argv[2], port)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    trips = []
    for _ in range(PINGS):
        begin = time.perf_counter()
        if not serve:
            link.sendall(b"p")
        drain(link, 1)
        if serve:
            link.sendall(b"p")
        trips.append(time.perf_counter() - begin)
    stream(link, count // 4)  # fills the token bucket's burst, opens the window
    seconds = [stream(link, count) for _ in range(2)]
    trips.sort()
    if not serve:
        print(json.dumps(dict(
            round_trip_s=trips[PINGS // 2], bytes=count, stream_s=seconds,
            bytes_per_s=2 * count / sum(seconds))))
    link.close()


if __name__ == "__main__":
    main()
