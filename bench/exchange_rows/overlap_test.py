"""The ideal that exposed communication is held against."""

import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.dirname(sys.path[0]))
# pylint: disable=wrong-import-position
from exchange_rows import overlap, setting  # noqa


def write_trace(folder, rank, shift):
    """Two buckets before the cut, then three exchanges of one and three MB;
    `shift` seconds later on this rank."""
    def line(at):
        return dict(exchange=at, begin=at, ready=[at + 1 + shift, at + 2],
                    finish=at + 3, done=at + 6.5, sent=1)
    with open(os.path.join(folder, f"exchange-{rank}.jsonl"), "w") as f:
        for record in (dict(buckets=[dict(count=5, codec="fp32")]),
                       dict(exchange=0, begin=0, ready=[0], finish=0, done=1,
                            sent=1),
                       dict(buckets=[dict(count=250000, codec="fp32"),
                                     dict(count=1500000, codec="bf16")]),
                       line(10), line(20), line(30)):
            f.write(json.dumps(record) + "\n")


class Overlap(unittest.TestCase):
    def test_replay_waits_for_the_bucket_and_for_the_link(self):
        rate = 1e6  # bytes a second each way; P = 2 sends n bytes each way
        self.assertEqual(overlap.replay([1e6, 2e6], [0, 0], rate), 3)
        self.assertEqual(overlap.replay([1e6, 2e6], [0, 5], rate), 7)
        self.assertEqual(overlap.replay([1e6, 2e6], [4, 0], rate), 7)
        self.assertEqual(overlap.replay([4e6], [0], rate, ranks=4), 6)

    def test_exposures_take_the_last_cut_and_the_slowest_rank(self):
        with tempfile.TemporaryDirectory() as folder:
            write_trace(folder, 0, 0)
            write_trace(folder, 1, 0.5)
            warmup, overlap.WARMUP = overlap.WARMUP, 1
            try:
                pairs = overlap.exposures(folder, 1e6)
            finally:
                overlap.WARMUP = warmup
        # Ready at 1.5 and 2, 1 and 3 s of wire: over at 5.5, 2.5 after finish.
        self.assertEqual(pairs, [(3.5, 2.5)] * 2)

    def test_payload_is_what_headers_leave(self):
        self.assertEqual(setting.payload_sent(dict(tx=1066 + 66,
                                                   tx_packets=2)), 1000)


if __name__ == "__main__":
    unittest.main()
