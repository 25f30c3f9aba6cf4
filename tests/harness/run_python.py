"""Runs tests/*_test.py, tests/jobs/*_test.py and data/**/*_test.py, shows each
test with its time, and writes «passed failed skipped» to the file given, and below
that a line with each reason why something was skipped."""

import glob
import importlib.util
import os
import sys
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))))
PATTERNS = ("tests/*_test.py", "tests/jobs/*_test.py", "data/**/*_test.py",
            "bench/**/*_test.py")


class Timed(unittest.TextTestResult):
    def startTest(self, test):
        self.began = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):
        unittest.TestResult.addSuccess(self, test)
        self.passed = getattr(self, "passed", 0) + 1
        self.stream.writeln(f"ok ({time.monotonic() - self.began:.1f} s)")


def load(path):
    name = os.path.relpath(path, ROOT).removesuffix(".py").replace("/", ".")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return unittest.defaultTestLoader.loadTestsFromModule(module)


def main():
    sys.path.insert(0, ROOT)
    paths = sorted({path for pattern in PATTERNS for path in glob.glob(
        os.path.join(ROOT, pattern), recursive=True)})
    suite = unittest.TestSuite(load(path) for path in paths)
    runner = unittest.TextTestRunner(verbosity=2, resultclass=Timed,
                                     stream=sys.stdout)
    result = runner.run(suite)
    failed = (len(result.failures) + len(result.errors)
              + len(result.unexpectedSuccesses))
    with open(sys.argv[1], "w", encoding="utf-8") as f:
        f.write(f"{getattr(result, 'passed', 0)} {failed} "
                f"{len(result.skipped)}\n")
        f.writelines(f"{reason}\n" for reason in sorted(
            {reason for _, reason in result.skipped}))
    return 0 if failed == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
