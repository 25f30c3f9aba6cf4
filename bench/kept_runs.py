"""Runs by what they are, in a file of results: one that is there already is not
repeated."""

import json
import os

from common import ROOT, machine, save


class KeptRuns:
    def __init__(self, name, **about):
        """name: of the file in results/; about: what it says beside the runs."""
        self.name, self.about, self.runs = name, about, []
        path = os.path.join(ROOT, "bench", "results", name)
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                self.runs = json.load(f)["runs"]

    def get(self, key, make):
        """The run of this key: all of it is in what is returned. make() runs it
        and returns its figures."""
        for run in self.runs:
            if all(run.get(k) == v for k, v in key.items()):
                return run
        run = {**key, **make()}
        self.runs.append(run)
        save(self.name, dict(machine=machine(), **self.about, runs=self.runs))
        return run
