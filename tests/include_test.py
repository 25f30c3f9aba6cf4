"""Holds every #include to the table of folders: only downwards, heavy headers
only where they are needed, and no cycle through a back door."""

import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MAY_INCLUDE = {
    "base": set(),
    "ops": {"base"},
    "comm": {"base"},
    "models": {"base", "ops"},
    "peft": {"base", "ops", "models"},
    "tasks": {"base", "ops", "models"},
    "data": {"base"},
    "dist": {"base", "ops", "comm", "models", "peft", "tasks", "data"},
    "launch": {"base", "ops", "comm", "models", "peft", "tasks", "data",
               "dist"},
}
# What costs ten seconds a file stays out of headers, and nearly everywhere.
HEAVY = ("torch/torch.h", "torch/all.h", "ATen/ATen.h", "torch/nn")
# dist/, comm/ and data/ speak of deltas, never of a method.
BLIND = ("dist", "comm", "data")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def sources(folder):
    for path, _, names in os.walk(os.path.join(ROOT, folder)):
        for name in sorted(names):
            if name.endswith((".h", ".cpp", ".cu", ".def")):
                yield os.path.join(path, name)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


class Includes(unittest.TestCase):
    def test_only_downwards(self):
        wrong = []
        for folder, allowed in MAY_INCLUDE.items():
            for path in sources(folder):
                test = "test" in os.path.basename(path)
                for include in INCLUDE.findall(read(path)):
                    top = include.split("/")[0]
                    if top == folder or top in allowed:
                        continue
                    if top in MAY_INCLUDE or (top == "tests" and not test):
                        wrong.append(f"{os.path.relpath(path, ROOT)}: "
                                     f"{include}")
        self.assertEqual(wrong, [])

    def test_no_heavy_headers(self):
        wrong = [f"{os.path.relpath(path, ROOT)}: {include}"
                 for folder in MAY_INCLUDE for path in sources(folder)
                 for include in INCLUDE.findall(read(path))
                 if include.startswith(HEAVY)]
        self.assertEqual(wrong, [])

    def test_own_header_exists(self):
        """Every quoted include is a file of this repository, from its root."""
        wrong = []
        for folder in MAY_INCLUDE:
            for path in sources(folder):
                for include in re.findall(r'#include "([^"]+)"', read(path)):
                    if not os.path.exists(os.path.join(ROOT, include)):
                        wrong.append(f"{os.path.relpath(path, ROOT)}: "
                                     f"{include}")
        self.assertEqual(wrong, [])

    def test_no_method_is_named_outside_of_peft(self):
        methods = re.findall(r"THINWIRE_METHOD\((\w+)\)",
                             read(os.path.join(ROOT, "peft/methods.def")))
        self.assertIn("lora", methods)
        methods = [m for m in methods if m not in ("id", "full", "head")]
        word = re.compile(r"\b(%s)\b" % "|".join(methods), re.I)
        wrong = [f"{os.path.relpath(path, ROOT)}: {found.group(0)}"
                 for folder in BLIND for path in sources(folder)
                 if "test" not in os.path.basename(path)
                 for found in [word.search(read(path))] if found]
        self.assertEqual(wrong, [])

    def test_files_stay_short(self):
        wrong = [f"{os.path.relpath(path, ROOT)}: {lines} lines"
                 for folder in MAY_INCLUDE for path in sources(folder)
                 for lines in [read(path).count("\n")] if lines > 450]
        self.assertEqual(wrong, [])


if __name__ == "__main__":
    unittest.main()
