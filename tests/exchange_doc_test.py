"""The formulas of docs/exchange.md against the counters of the program."""

import json
import os
import re
import tempfile
import unittest

from tests.harness import jobs

SIZES = (4, 8, 28, 1000, 4096, 65536, 1100000, 3000000)  # bytes of payload
ALGORITHMS = ("doubling", "halving_doubling", "ring", "two_level")
CODECS = ("fp32", "bf16", "int8")


def document():
    with open(os.path.join(jobs.ROOT, "docs", "exchange.md"),
              encoding="utf-8") as f:
        return f.read()


def formulas():
    """The names that the document's block of Python defines."""
    block, = re.findall(r"```python\n(.*?)```", document(), re.S)
    names = {}
    exec(block, names)  # pylint: disable=exec-used
    return names


def measure(ranks, *more):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "comm.json")
        result = jobs.run(["bench", "comm", "--ranks", ranks, "--seconds", 0,
                           "--sizes", ",".join(map(str, SIZES)),
                           "--json", path, *more])
        if result.status != 0:
            raise AssertionError(result.err)
        with open(path, encoding="utf-8") as f:
            return json.load(f)["results"][0]["rows"]


class ExchangeDoc(unittest.TestCase):
    def test_bytes_of_every_rank(self):
        sent = formulas()["sent"]
        for ranks in range(1, 9):
            rows = measure(ranks)
            self.assertEqual(len(rows), len(SIZES) * len(ALGORITHMS)
                             * len(CODECS) * 2)
            for row in rows:
                guard = row["path"] == "trainer"
                want = [sent(row["algorithm"], row["codec"], ranks, r,
                             row["bytes"] // 4, guard, [0] * ranks)
                        for r in range(ranks)]
                self.assertEqual(row["sent_bytes"], want,
                                 (ranks, row["path"], row["algorithm"],
                                  row["codec"], row["bytes"]))
                self.assertEqual(sum(row["received_bytes"]), sum(want))

    def test_bytes_over_several_hosts(self):
        sent = formulas()["sent"]
        for ranks, count in ((4, 2), (6, 3), (7, 3), (8, 2), (8, 8)):
            hosts = [r % count for r in range(ranks)]
            for row in measure(ranks, "--hosts", count, "--algorithms",
                               "two_level", "--paths", "trainer"):
                want = [sent("two_level", row["codec"], ranks, r,
                             row["bytes"] // 4, True, hosts)
                        for r in range(ranks)]
                self.assertEqual(row["sent_bytes"], want,
                                 (ranks, count, row["codec"], row["bytes"]))

    def test_the_table_is_what_the_formulas_give(self):
        """The closed forms for powers of two, one segment, no guard."""
        names = formulas()
        code, one = names["E"], names["one"]
        for ranks, log in ((2, 1), (4, 2), (8, 3)):
            n = 2048 * ranks
            for codec in CODECS:
                least = 2 * (ranks - 1) * code(codec, n // ranks)
                for r in range(ranks):
                    self.assertEqual(one("doubling", codec, ranks, r, n, 0,
                                         None),
                                     log * code(codec, n))
                    for algorithm in ("halving_doubling", "ring"):
                        self.assertEqual(one(algorithm, codec, ranks, r, n, 0,
                                             None),
                                         least)
                    self.assertEqual(
                        one("two_level", codec, ranks, r, n, 0, [0] * ranks),
                        (ranks - 1) * (4 * n + code(codec, n)) // ranks)

    def test_codecs_are_as_small_as_promised(self):
        code = formulas()["E"]
        self.assertEqual(code("bf16", 16384) / (4 * 16384), 0.5)
        self.assertLessEqual(code("int8", 16384) / (4 * 16384), 0.27)


if __name__ == "__main__":
    unittest.main()
