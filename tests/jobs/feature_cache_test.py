"""A cache of what a network beside the backbone reads: filled by all ranks,
taken up where it was broken off, read ever after, and refused where it is not
this run's."""

import json
import os
import shutil
import signal
import unittest

from tests.harness import jobs, tiny

RANKS = 2
STEPS = 120  # of 8 among 400 samples


def files(folder):
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as f:
            out[name] = f.read()
    return out


class FeatureCache(unittest.TestCase):
    @classmethod
    def config(cls, name, cache=None, **sections):
        output = tiny.fresh_output(f"cache-{name}")
        parts = tiny.t5_sections()
        parts["peft"] = [{"method": "lst", "reduction_factor": 2,
                          "init": "magnitude"}]
        if cache:
            parts["cache"] = {"path": cache}
        parts["train"] = {"steps": STEPS, "eval_every": 60,
                          "checkpoint_every": 20}
        for section, keys in sections.items():
            merged = isinstance(keys, dict) and section in parts
            parts[section] = {**parts[section], **keys} if merged else keys
        return tiny.config(f"cache-{name}", output, **parts), output

    @classmethod
    def setUpClass(cls):
        cls.cache = os.path.join(tiny.folder(), "features")
        shutil.rmtree(cls.cache, ignore_errors=True)
        config, output = cls.config("reference", cls.cache)
        result = jobs.run(["train", config], RANKS)
        assert result.status == 0, result.err
        cls.log = os.path.join(output, "log.txt")
        cls.reference = jobs.curve(output)
        assert len(cls.reference[0]) == STEPS
        cls.files = files(cls.cache)

    def copy(self, name):
        path = os.path.join(tiny.folder(), f"features-{name}")
        shutil.rmtree(path, ignore_errors=True)
        return shutil.copytree(self.cache, path)

    def refuse(self, config, *words, status=2, ranks=RANKS):
        result = jobs.run(["train", config], ranks)
        self.assertEqual(result.status, status, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        for word in words:
            self.assertIn(word, result.errors[0])

    def test_what_is_in_it(self):
        import h5py
        import numpy as np

        with open(os.path.join(self.cache, "index.json"),
                  encoding="utf-8") as f:
            index = json.load(f)
        self.assertEqual(index["format"], "thinwire-features")
        self.assertEqual(index["layers"], "encoder 0 1, decoder 0, 32 wide")
        names = [n for n in self.files if n.endswith(".h5")]
        self.assertEqual(len(names), len(index["file_bytes"]))
        self.assertEqual(len(names) + 1, len(self.files))
        shards = {}
        folder = tiny.text_shards("train")
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".h5"):
                continue
            with h5py.File(os.path.join(folder, name)) as f:
                ends = f["input/offsets"][:], f["target/offsets"][:]
                for i, key in enumerate(f["id"][:]):
                    shards[key] = [e[i + 1] - e[i] for e in ends]
        seen = set()
        for name in names:
            with h5py.File(os.path.join(self.cache, name)) as f:
                self.assertEqual(f.attrs["thinwire_features"], 1)
                self.assertTrue(f["values"].fletcher32)
                offsets = f["offsets"][:]
                wide = f["values"][:].astype(np.uint32) << 16
                values = wide.view(np.float32)
                self.assertTrue(np.isfinite(values).all())
                self.assertGreater(np.abs(values).max(), 0.1)
                for i, key in enumerate(f["key"][:]):
                    source, target = shards[key]
                    # Embeddings and the layers of either stack.
                    self.assertEqual(offsets[i + 1] - offsets[i],
                                     32 * (3 * source + 2 * target))
                    seen.add(key)
        self.assertEqual(len(seen), 400)
        with open(self.log, encoding="utf-8") as f:
            self.assertRegex(f.read(), r"features of 400 samples, .* MB, made "
                             r"in .* s in .*: encoder 0 1, decoder 0, 32 wide")

    def test_it_is_near_to_the_run_without_it(self):
        config, output = self.config("plain")
        self.assertEqual(jobs.run(["train", config], RANKS).status, 0)
        for ours, theirs in zip(self.reference[0][:20],
                                jobs.curve(output)[0]):
            self.assertAlmostEqual(ours[1] / theirs[1], 1, delta=0.02)

    def test_another_run_reads_it(self):
        config, output = self.config("again", self.cache)
        result = jobs.run(["train", config], RANKS)
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(jobs.curve(output), self.reference)
        self.assertEqual(files(self.cache), self.files)

    def test_killed_while_it_is_filled(self):
        for nth in (3, 12, 31):
            with self.subTest(nth=nth):
                cache = os.path.join(tiny.folder(), f"features-kill-{nth}")
                config, output = self.config(f"kill-{nth}", cache)
                result = jobs.run(["train", config], RANKS,
                                  env={"THINWIRE_KILL_WRITE": nth})
                self.assertNotEqual(result.status, 0)
                left = [n for n in os.listdir(cache) if n.endswith(".h5")
                        and not n.startswith(".")]
                for name in left:
                    self.assertEqual(files(cache)[name], self.files[name])
                self.assertEqual(bool(left), nth > 10)
                result = jobs.run(["train", config, "--resume"], RANKS)
                self.assertEqual(result.status, 0, result.err)
                self.assertEqual(jobs.curve(output), self.reference)
                self.assertEqual(files(cache), self.files)

    def test_killed_while_it_is_read(self):
        config, output = self.config("read", self.cache)
        job = jobs.Job(jobs.command(["train", config], RANKS))
        job.wait_until(lambda: len(jobs.metrics(output)) >= 70)
        for pid in job.ranks().values():
            os.kill(pid, signal.SIGKILL)
        self.assertNotEqual(job.wait(60).status, 0)
        result = jobs.run(["train", config, "--resume"], RANKS)
        self.assertEqual(result.status, 0, result.err)
        self.assertEqual(jobs.curve(output), self.reference)

    def test_another_backbone_data_or_layers(self):
        self.refuse(self.config("backbone", self.cache, model={"seed": 4})[0],
                    self.cache, "holds features of backbone",
                    "give another folder")
        self.refuse(self.config("data", self.cache,
                                data={"train": tiny.text_shards("eval")})[0],
                    self.cache, "holds features of training data")
        self.refuse(self.config("layers", self.cache, peft=[
            {"method": "lst", "reduction_factor": 2, "init": "magnitude",
             "encoder_layers": [1]}])[0],
                    "encoder 0 1, decoder 0, 32 wide, this run has encoder 1")
        self.assertEqual(files(self.cache), self.files)

    def test_files_are_missing(self):
        cache = self.copy("missing")
        os.remove(os.path.join(cache, "features-00003.h5"))
        self.refuse(self.config("missing", cache)[0], "features-00003.h5",
                    "features are missing")

    def test_a_chunk_is_damaged(self):
        cache = self.copy("damaged")
        path = os.path.join(cache, "features-00003.h5")
        with open(path, "r+b") as f:
            f.seek(os.path.getsize(path) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 4]))
        self.refuse(self.config("damaged", cache)[0], "features-00003.h5: /",
                    "checksum mismatch")

    def test_something_in_the_backbone_trains(self):
        cache = os.path.join(tiny.folder(), "features-none")
        self.refuse(self.config("trains", cache, peft=[
            {"method": "lst", "reduction_factor": 2, "init": "magnitude"},
            {"method": "lora", "r": 2, "target_modules": ["q"]}])[0],
                    "cache.path", "what is attached at 'encoder.block.0.",
                    "changes what the backbone's layers give")
        self.refuse(self.config("dropout", cache, peft=[
            {"method": "lst", "reduction_factor": 2, "init": "magnitude",
             "frozen_dropout": True}])[0], "drops out in training")
        self.refuse(self.config("none", cache, peft=[{"method": "lora"}])[0],
                    "no method runs a network beside the backbone")
        self.assertFalse(os.path.exists(cache))

    def test_it_would_be_read_once(self):
        cache = os.path.join(tiny.folder(), "features-once")
        self.refuse(self.config("once", cache, train={"steps": 50})[0],
                    "goes over its data 1 times", "train without a cache")
        self.assertFalse(os.path.exists(cache))

    def test_there_is_too_little_room(self):
        place = os.path.join(tiny.folder(), "features-room")
        os.makedirs(place, exist_ok=True)
        config, _ = self.config("room", os.path.join(place, "cache"))
        # A disk of its own, which is gone with the namespace.
        argv = ["unshare", "--mount"]
        if os.geteuid() != 0:
            argv += ["--user", "--map-root-user"]
        result = jobs.Job(
            [*argv, "bash", "-c",
             f"mount -t tmpfs -o size=256k none '{place}' && \"$@\" && exit 1;"
             f" status=$?; ls '{place}/cache'; exit $status", "-",
             *jobs.command(["train", config], RANKS)]).wait()
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertRegex(result.errors[0],
                         r"cache\.path .*features of 400 samples take .*, "
                         r".* are free there; give a folder with more room")
        self.assertEqual(result.out.strip(), "")

    def test_inspect_foretells_it(self):
        config, _ = self.config("inspect", self.cache)
        result = jobs.run(["inspect", config])
        self.assertEqual(result.status, 0, result.err)
        self.assertRegex(result.out, r"features of 400 samples: .* on disk")
        foretold = json.loads(jobs.run(["inspect", config, "--json"]).out)
        features = foretold["features"]
        made = sum(len(b) for n, b in self.files.items() if n.endswith(".h5"))
        self.assertAlmostEqual(features["disk_bytes"] / made, 1, delta=0.1)
        self.assertAlmostEqual(features["passes"], STEPS * 4 / 400)
        self.assertGreater(features["without_seconds"], 0)
        self.assertGreater(features["with_seconds"], 0)
        # The backbone's layers are no part of a step from the cache.
        config, _ = self.config("inspect-plain")
        plain = json.loads(jobs.run(["inspect", config, "--json"]).out)
        self.assertLess(foretold["forward_flops"],
                        0.8 * plain["forward_flops"])
        self.assertEqual(files(self.cache), self.files)


if __name__ == "__main__":
    unittest.main()
