"""Counts the cases of a CTest JUnit file: «passed failed skipped». A GoogleTest
binary counts by its own cases, read from its output."""

import re
import sys
import xml.etree.ElementTree as ElementTree


def count(path):
    passed = failed = skipped = 0
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        text = case.findtext("system-out") or ""
        ran = re.findall(r"\[  PASSED  \] (\d+) tests?\.", text)
        bad = re.findall(r"^ ?(\d+) FAILED TESTS?$", text, re.M)
        left = re.findall(r"\[  SKIPPED \] (\d+) tests?, listed", text)
        fine = case.get("status") == "run" and case.find("failure") is None
        passed += int(ran[-1]) if ran else int(fine)
        skipped += int(left[-1]) if left else 0
        # A binary that failed without saying how many is one failure.
        failed += max(int(bad[-1]) if bad else 0, int(not fine))
    return passed, failed, skipped


if __name__ == "__main__":
    try:
        print(*count(sys.argv[1]))
    except (OSError, ElementTree.ParseError) as e:
        print(f"error: {sys.argv[1]}: {e}", file=sys.stderr)
        print("0 1 0")
