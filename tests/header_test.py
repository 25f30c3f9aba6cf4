"""With --long: every header compiles alone, so that whoever includes it needs
no other before it. Uses the compiler calls of build/$THINWIRE_PRESET (default
release)."""

import concurrent.futures
import glob
import json
import os
import shlex
import subprocess
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, "build", os.environ.get("THINWIRE_PRESET",
                                                   "release"))


def compiler_calls():
    """A folder's own compiler call, without its source and output."""
    calls = {}
    with open(os.path.join(BUILD, "compile_commands.json")) as f:
        for entry in json.load(f):
            if not entry["file"].endswith(".cpp"):
                continue
            folder = os.path.relpath(entry["file"], ROOT).split(os.sep)[0]
            words = shlex.split(entry["command"])
            if "-o" in words:
                words = words[:words.index("-o")]
            if os.path.basename(words[0]) == "ccache":
                words = words[1:]
            calls.setdefault(folder, words)
    return calls


def check(header, call):
    done = subprocess.run(
        [*call, "-fsyntax-only", "-x", "c++", "-include",
         os.path.join(ROOT, header), os.devnull],
        cwd=BUILD, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"{header}:\n{done.stderr[:800]}"


class Headers(unittest.TestCase):
    if os.environ.get("THINWIRE_LONG"):
        def test_each_compiles_alone(self):
            calls = compiler_calls()
            headers = [
                header for folder in calls for header in sorted(glob.glob(
                    f"{folder}/**/*.h", root_dir=ROOT, recursive=True))]
            self.assertGreater(len(headers), 50)
            with concurrent.futures.ThreadPoolExecutor(
                    os.cpu_count()) as pool:
                wrong = list(filter(None, pool.map(
                    lambda h: check(h, calls[h.split("/")[0]]), headers)))
            self.assertEqual(wrong, [], "\n".join(wrong))


if __name__ == "__main__":
    unittest.main()
