"""`thinwire search` finds a structure that `thinwire train` trains alone."""

import json
import os
import unittest

from tests.harness import jobs, tiny


class Search(unittest.TestCase):
    def config(self, name, search=None, **sections):
        return tiny.config(
            name, tiny.fresh_output(name),
            peft=[{"method": "sparse_structure", "reduction_factor": 4}],
            search=search or {"budget": 0.02, "batch_size": 12},
            **sections)

    def search(self, config, ranks=None, extra=()):
        path = os.path.join(tiny.folder(), f"found-{ranks}.yaml")
        result = jobs.run(["search", config, "--output", path, *extra], ranks)
        self.assertEqual(result.status, 0, result.err)
        with open(path, encoding="utf-8") as f:
            return path, f.read(), result.out

    def test_ranks_find_the_same_structure(self):
        for name, sections in (("bert", {}), ("t5", tiny.t5_sections())):
            # One global batch of 8, whatever the number of ranks.
            halves = {"data": {**sections.get("data", {}), "batch_size": 4}}
            one = self.config("search", **{
                **sections, "data": {**halves["data"], "batch_size": 8}})
            path, text, out = self.search(one)
            self.assertRegex(out, r"lora +\d+ +\d+ +[\d,]+", name)
            self.assertIn("sparse_structure", text)
            self.assertNotIn("search:", text)
            two = self.config("search", {"budget": 0.02, "batch_size": 6},
                              **{**sections, **halves})
            _, other, _ = self.search(two, ranks=2)
            self.assertEqual(other.replace("batch_size: 4", "batch_size: 8"),
                             text)

            checked = jobs.run(["inspect", path])
            self.assertEqual(checked.status, 0, checked.err)
            for ranks in (None, 2):
                output = tiny.fresh_output("found")
                trained = jobs.run(["train", path, f"output={output}"], ranks)
                self.assertEqual(trained.status, 0, trained.err)
                summary = jobs.summary(output)
                modules = (summary["trainable_parameters"]
                           - summary.get("head_parameters", 0))
                self.assertGreater(modules, 0)
                budget = 0.02 * summary["total_parameters"]
                self.assertLessEqual(modules, budget)

    def refuse(self, config, *words, extra=()):
        result = jobs.run(["search", config, "--output",
                           os.path.join(tiny.folder(), "none.yaml"), *extra], 2)
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        for word in words:
            self.assertIn(word, result.errors[0])
        self.assertFalse(os.path.exists(
            os.path.join(tiny.folder(), "none.yaml")))

    def test_what_cannot_be_is_one_line(self):
        config = self.config("search")
        self.refuse(config, "no module fits a budget of 2 numbers",
                    extra=["search.budget=2"])
        self.refuse(config, "fit a budget of 9000000 numbers",
                    extra=["search.budget=9000000"])
        self.refuse(config, "/no/such", extra=["search.data=/no/such"])
        self.refuse(config, "search.bugdet", "search.budget",
                    extra=["search.bugdet=2"])
        self.refuse(tiny.config("search", "none"), "no section search")
        self.refuse(tiny.config("search", "none", search={"budget": 50}),
                    "method: sparse_structure")

    def test_a_structure_of_another_model_is_one_line(self):
        path, _, _ = self.search(self.config("search"))
        deep = os.path.join(tiny.folder(), "deep-bert.json")
        with open(deep, "w", encoding="utf-8") as f:
            json.dump({**tiny.bert_config(), "num_hidden_layers": 3}, f)
        output = tiny.fresh_output("found")
        result = jobs.run(["train", path, f"output={output}",
                           f"model.config={deep}", "model.path=~"])
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("bert, 2 layers of width 32", result.errors[0])
        self.assertIn("bert, 3 layers of width 32", result.errors[0])


if __name__ == "__main__":
    unittest.main()
