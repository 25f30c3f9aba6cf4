"""The small T5 of launch/small_t5.sh, shortened, and the configs that start
from it."""

import glob
import os
import shutil
import tempfile
import unittest

from tests.harness import jobs

CACHE = os.path.join(jobs.ROOT, ".cache", "small_t5-short")
CONFIGS = os.path.join(jobs.ROOT, "configs")
FEW = ["train.steps=2", "train.warmup=1", "train.eval_samples=16",
       "train.threads=1"]


class SmallT5(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        runs = os.path.join(jobs.ROOT, "runs", "small_t5_pretrain-short")
        for folder in (CACHE, runs):
            shutil.rmtree(folder, ignore_errors=True)
        cls.made = jobs.Job(
            ["bash", os.path.join(jobs.ROOT, "launch", "small_t5.sh"),
             "--short"], env={"THINWIRE_PRESET": jobs.PRESET}).wait(600)
        # The configs name their model and data relative to where one stands.
        cls.place = tempfile.TemporaryDirectory()
        os.mkdir(os.path.join(cls.place.name, ".cache"))
        os.symlink(CACHE, os.path.join(cls.place.name, ".cache", "small_t5"))
        cls.summary = jobs.summary(runs) if cls.made.status == 0 else None

    @classmethod
    def tearDownClass(cls):
        cls.place.cleanup()

    def setUp(self):
        self.assertEqual(self.made.status, 0, self.made.err[-3000:])

    def run_config(self, name):
        command = jobs.command(
            ["train", os.path.join(CONFIGS, f"{name}.yaml"), *FEW], 2)
        result = jobs.Job(command, cwd=self.place.name).wait(120)
        self.assertEqual(result.status, 0, f"{name}: {result.err[-3000:]}")
        return jobs.summary(os.path.join(self.place.name, "runs", "papers",
                                         name.removesuffix("_small")))

    def test_all_of_it_is_pretrained(self):
        # Embedding; per encoder block four projections, two of the
        # feed-forward, two norms; the decoder's have one attention more; two
        # biases by distance, two last norms.
        d, ff = 256, 1024
        encoder = 4 * d * d + 2 * d * ff + 2 * d
        decoder = encoder + 4 * d * d + d
        self.assertEqual(self.summary["total_parameters"],
                         8000 * d + 4 * (encoder + decoder) + 2 * 32 * 4 + 2 * d)
        self.assertEqual(self.summary["trainable_parameters"],
                         self.summary["total_parameters"])

    def test_the_merged_model_is_the_trained_one(self):
        output = os.path.join(self.place.name, "again")
        result = jobs.run(
            ["train", os.path.join(CONFIGS, "small_t5_pretrain.yaml"),
             "model.config=~", f"model.path={CACHE}/model",
             f"data.train={CACHE}/corpus/train",
             f"data.eval={CACHE}/corpus/eval", f"output={output}",
             "train.steps=1", "train.eval_samples=64"], 2)
        self.assertEqual(result.status, 0, result.err[-3000:])
        self.assertAlmostEqual(jobs.summary(output)["first"]["loss"],
                               self.summary["final"]["loss"], places=5)

    def test_every_small_config_on_it_runs(self):
        for source in ("small_t5_prompt_section", "small_t5_prompt_role"):
            self.run_config(source)
        names = [os.path.basename(path).removesuffix(".yaml")
                 for path in glob.glob(os.path.join(CONFIGS, "*_small.yaml"))
                 if "extends: small_t5" in open(path).read()]
        self.assertGreaterEqual(len(names), 4)
        for name in sorted(names) + ["small_t5_full", "small_t5_choose_full"]:
            with self.subTest(name):
                summary = self.run_config(name)
                self.assertEqual(summary["steps"], 2)
                self.assertGreater(summary["trainable_parameters"], 0)


if __name__ == "__main__":
    unittest.main()
