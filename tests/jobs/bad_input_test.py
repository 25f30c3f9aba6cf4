"""Bad input ends a job with one clear line and the right status, on one rank
and on several, without a hang and without touching what was there."""

import json
import os
import shutil
import unittest

from tests.harness import jobs, tiny


def copy_of(folder, name):
    path = os.path.join(tiny.folder(), name)
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(folder, path)
    return path


def truncate(path, keep):
    with open(path, "r+b") as f:
        f.truncate(int(os.path.getsize(path) * keep))


def rewrite_tensors(path, change):
    from safetensors.numpy import load_file, save_file

    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


class BadInput(unittest.TestCase):
    ranks = None

    def refuse(self, config, *words, status=2, extra=(), ranks=None, env=None,
               verb="train"):
        """Runs it; expects the status and exactly one line with the words."""
        result = jobs.run([verb, config, *extra], ranks or self.ranks, env=env)
        self.assertEqual(result.status, status, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        for word in words:
            self.assertIn(word, result.errors[0])
        return result

    def config(self, **sections):
        output = tiny.fresh_output("refused")
        return tiny.config("refused", output, **sections)

    # --- model ---

    def test_model_folder_is_missing(self):
        self.refuse(self.config(model={"path": "/no/such/model"}),
                    "/no/such/model")

    def test_safetensors_are_missing(self):
        model = copy_of(tiny.bert(), "bare")
        os.remove(os.path.join(model, "model.safetensors"))
        self.refuse(self.config(model={"path": model}), model,
                    "model.safetensors")

    def test_safetensors_are_truncated(self):
        model = copy_of(tiny.bert(), "truncated")
        truncate(os.path.join(model, "model.safetensors"), 0.7)
        self.refuse(self.config(model={"path": model}), "model.safetensors")

    def test_tensor_has_the_wrong_shape(self):
        model = copy_of(tiny.bert(), "shape")
        name = "bert.encoder.layer.1.output.dense.weight"

        def change(tensors):
            tensors[name] = tensors[name][:, :-1].copy()

        rewrite_tensors(os.path.join(model, "model.safetensors"), change)
        self.refuse(self.config(model={"path": model}), name, "shape")

    def test_tensor_has_the_wrong_dtype(self):
        model = copy_of(tiny.bert(), "dtype")
        name = "bert.pooler.dense.bias"

        def change(tensors):
            tensors[name] = tensors[name].astype("int32")

        rewrite_tensors(os.path.join(model, "model.safetensors"), change)
        self.refuse(self.config(model={"path": model}), name)

    def test_model_type_is_unknown(self):
        model = copy_of(tiny.bert(), "unknown")
        path = os.path.join(model, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        config["model_type"] = "perceiver"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.refuse(self.config(model={"path": model}), "perceiver", "bert",
                    "t5")

    # --- data ---

    def test_shards_are_missing(self):
        self.refuse(self.config(data={"train": "/no/such/shards"}),
                    "/no/such/shards")

    def test_shard_is_truncated(self):
        data = copy_of(tiny.classify_shards("train"), "short-shards")
        shard = next(n for n in sorted(os.listdir(data)) if n.endswith(".h5"))
        truncate(os.path.join(data, shard), 0.5)
        self.refuse(self.config(data={"train": data}), shard)

    def test_shard_has_a_flipped_bit(self):
        data = copy_of(tiny.classify_shards("train"), "flipped-shards")
        shard = next(n for n in sorted(os.listdir(data)) if n.endswith(".h5"))
        result = jobs.run(["data", "verify", data], self.ranks)
        self.assertEqual(result.status, 0, result.err)
        with open(os.path.join(data, shard), "r+b") as f:
            f.seek(os.path.getsize(f.name) // 2)
            byte = f.read(1)
            f.seek(-1, os.SEEK_CUR)
            f.write(bytes([byte[0] ^ 4]))
        result = jobs.run(["data", "verify", data], self.ranks)
        self.assertIn(result.status, (1, 2), result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn(shard, result.errors[0])

    def test_label_is_out_of_range(self):
        self.refuse(self.config(task={"kind": "classify", "labels": 2}),
                    "classes", "labels")

    def test_no_examples(self):
        data = copy_of(tiny.classify_shards("train"), "no-examples")
        path = os.path.join(data, "index.json")
        with open(path, encoding="utf-8") as f:
            index = json.load(f)
        index["samples"] = 0
        index["shards"] = []
        with open(path, "w", encoding="utf-8") as f:
            json.dump(index, f)
        self.refuse(self.config(data={"train": data}), "no-examples")

    def test_more_ranks_than_samples(self):
        config = self.config(data={"train": tiny.classify_shards("few")})
        self.refuse(config, "4 samples", ranks=5)

    # --- device ---

    def test_device_is_unknown(self):
        self.refuse(self.config(), "device must be cpu or cuda", "tpu",
                    extra=("device=tpu",))

    def test_no_gpu_for_this_rank(self):
        """Seventeen ranks are more than a machine has GPUs."""
        ranks = 17 if os.path.exists("/dev/nvidiactl") else self.ranks
        self.refuse(self.config(), "GPU", extra=("device=cuda",), ranks=ranks)

    # --- config ---

    def write(self, text):
        path = os.path.join(tiny.folder(), "written.yaml")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_config_is_missing(self):
        self.refuse("/no/such/config.yaml", "/no/such/config.yaml")

    def test_yaml_is_truncated(self):
        self.refuse(self.write("model: {path: x\ntrain: {steps"),
                    "written.yaml")

    def test_key_is_unknown(self):
        config = self.config(train={"learning_rate": 1})
        self.refuse(config, "train.learning_rate", "did you mean",
                    f"{config}:")

    def test_key_stands_twice(self):
        path = self.write("model: {path: x}\ntrain:\n  lr: 1\n  lr: 2\n")
        self.refuse(path, "written.yaml:4", "'lr' stands twice")

    def test_value_has_the_wrong_type(self):
        self.refuse(self.config(), "train.steps", "'many'",
                    extra=["train.steps=many"])

    def test_value_is_out_of_range(self):
        self.refuse(self.config(), "train.dropout", "from 0",
                    extra=["train.dropout=1.5"])

    def test_method_is_unknown(self):
        self.refuse(self.config(), "'lroa'", "lora",
                    extra=["peft.0.method=lroa"])

    def test_method_is_misconfigured(self):
        self.refuse(self.config(), "r must be", extra=["peft.0.r=0"])

    def test_environment_variable_is_unset(self):
        self.refuse(self.config(model={"path": "${env:THINWIRE_NO_SUCH}"}),
                    "THINWIRE_NO_SUCH", "not set")

    # --- delta and mask ---

    FISH = {"method": "fish_mask", "density": 0.05, "samples": 8}

    def random_bert(self, seed):
        return {"config": os.path.join(tiny.bert(), "config.json"),
                "seed": seed}

    def make_mask(self, name, seed):
        """A mask for a random backbone of this seed."""
        path = os.path.join(tiny.folder(), name)
        config = tiny.config("mask", None, model=self.random_bert(seed),
                             peft=[self.FISH])
        result = jobs.run(["mask", config, "--output", path])
        self.assertEqual(result.status, 0, result.err)
        return path

    def test_mask_is_for_another_backbone(self):
        mask = self.make_mask("mask-1.safetensors", 1)
        config = self.config(model=self.random_bert(2),
                             peft=[{**self.FISH, "mask_file": mask}])
        # A random backbone of the same shapes is one that the mask fits, and
        # tells apart by its identity; one of another shape it does not fit.
        self.refuse(config, "mask-1.safetensors", "backbone",
                    extra=["--init", mask])
        other = copy_of(tiny.bert(), "other-shape")
        path = os.path.join(other, "config.json")
        with open(path, encoding="utf-8") as f:
            shapes = json.load(f)
        shapes.update(intermediate_size=24)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(shapes, f)
        config = self.config(model={"config": path, "seed": 1},
                             peft=[{**self.FISH, "mask_file": mask}])
        self.refuse(config, "mask-1.safetensors")

    def test_mask_cannot_be_met(self):
        for method, *words in (
                ({"method": "random_mask", "density": 1e-6}, "random_mask",
                 "the head alone has"),
                ({"method": "pafi", "density": 1e-6, "train_head": False},
                 "pafi", "is none"),
                ({"method": "magnitude_mask", "density": 1.0,
                  "exclude": ["pooler"]}, "magnitude_mask", "asks for"),
                ({"method": "pafi", "quota": "layer"}, "pafi",
                 "global or tensor", "'layer'"),
                ({"method": "diff_pruning", "gate_steps": 2,
                  "gate_lr_factor": 1e6, "l0_penalty": 1}, "diff_pruning",
                 "only 0 differ with an open gate")):
            with self.subTest(method=method):
                self.refuse(self.config(peft=[method]), *words)

    def test_phases_leave_nothing_to_train(self):
        config = self.config(peft=[{"method": "lt_sft", "density": 0.05,
                                    "full_steps": 40}])
        self.refuse(config, "lt_sft", "first phase ends at step 40",
                    extra=["train.steps=40"])
        config = self.config(peft=[{"method": "diff_pruning",
                                    "gate_steps": 40}])
        self.refuse(config, "diff_pruning", "first phase ends at step 40",
                    extra=["train.steps=40"])

    def test_score_says_nothing(self):
        peft = {"method": "sparse_adapter", "samples": 8}
        self.refuse(self.config(peft=[{**peft, "adapter": {"method": "lora"}}]),
                    "score snip is 0", "lora", "warmup_steps")
        adapter = {"method": "houlsby", "bottleneck": 4}
        self.refuse(self.config(peft=[{**peft, "adapter": adapter,
                                       "density": 0.2, "sparsity": 0.2}]),
                    "together they must be 1")
        self.refuse(self.config(peft=[{**peft, "adapter": {"method": "lroa"}}]),
                    "'lroa'", "lora")

    def test_pruning_cannot_be(self):
        dsee = {"method": "dsee", "sparse": 4, "prune_after": 2}
        for more, words in (
                ({"prune_heads": 64}, ("prune_heads 64 would leave none",)),
                ({"prune_channels": 1}, ("prune_channels", "[0, 1), got 1")),
                ({"sparsity": 1.5}, ("sparsity", "[0, 1), got 1.5")),
                ({"sparsity": 0, "other_sparsity": 0},
                 ("prune_after 2 removes nothing",)),
                ({"prune_after": 0}, ("score update is 0", "prune later")),
                ({"sparse": 10**8}, ("sparse 100000000", "more than"))):
            with self.subTest(more=more):
                self.refuse(self.config(peft=[{**dsee, **more}]), "dsee",
                            *words)

    def test_saved_mask_is_used(self):
        mask = self.make_mask("mask-3.safetensors", 1)
        hashes = []
        for peft in (self.FISH, {**self.FISH, "mask_file": mask}):
            output = tiny.fresh_output("masked")
            config = tiny.config("masked", output, peft=[peft],
                                 model=self.random_bert(1))
            result = jobs.run(["train", config, "train.steps=3"], self.ranks)
            self.assertEqual(result.status, 0, result.err)
            hashes.append([s["loss"] for s in jobs.metrics(output)])
        self.assertEqual(hashes[0], hashes[1])

    def test_delta_hash_differs(self):
        mask = self.make_mask("mask-2.safetensors", 1)
        from safetensors import safe_open
        from safetensors.numpy import load_file, save_file

        with safe_open(mask, "np") as f:
            metadata = f.metadata()
        tensors = load_file(mask)
        name = next(n for n in sorted(tensors)
                    if n.startswith("index.") and len(tensors[n]) > 1
                    and tensors[n][0] > 0)
        tensors[name][0] -= 1  # still sorted and in range: another mask
        save_file(tensors, mask, metadata=metadata)
        config = self.config(model=self.random_bert(1), peft=[self.FISH])
        self.refuse(config, "mask-2.safetensors", "hash",
                    extra=["--init", mask])

    def test_delta_is_of_another_method(self):
        mask = self.make_mask("mask-4.safetensors", 1)
        config = self.config(model=self.random_bert(1),
                             peft=[{"method": "lora", "r": 2}])
        self.refuse(config, "mask-4.safetensors", "was made by fish_mask",
                    "is lora", extra=["--init", mask])

    # --- run folder ---

    def test_run_folder_holds_a_run(self):
        output = tiny.fresh_output("taken")
        config = tiny.config("taken", output)
        self.assertEqual(jobs.run(["train", config, "train.steps=1"],
                                  self.ranks).status, 0)
        before = jobs.curve(output)
        self.refuse(config, output, "--resume")
        self.assertEqual(jobs.curve(output), before)

    def test_run_folder_cannot_be_written(self):
        plain_file = os.path.join(tiny.folder(), "plain-file")
        with open(plain_file, "w", encoding="utf-8"):
            pass
        output = os.path.join(plain_file, "run")
        result = self.refuse(tiny.config("unwritable", output), output)
        self.assertNotIn("trainable", result.err)  # before anything else

    def test_usage(self):
        for arguments, word in ((["trian"], "train"),
                                (["train"], "CONFIG"),
                                (["train", "x.yaml", "--resmue"], "--resmue"),
                                (["list", "method"], "methods"),
                                (["data", "check", "x"], "verify")):
            with self.subTest(arguments=arguments):
                result = jobs.run(arguments, self.ranks)
                self.assertEqual(result.status, 2, result.err)
                self.assertEqual(len(result.errors), 1, result.err)
                self.assertIn(word, result.errors[0])


class BadInputOnTwoRanks(BadInput):
    ranks = 2

    def test_one_rank_has_another_config(self):
        one = tiny.config("one", tiny.fresh_output("one"))
        other = tiny.config("other", tiny.fresh_output("one"),
                            train={"lr": 4e-3})
        argv = jobs.command(["train", one], 1)
        argv += [":", "-np", "1", jobs.BINARY, "train", other]
        result = jobs.Job(argv).wait()
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("configuration differs", result.errors[0])
        self.assertIn("0.004", result.errors[0])
        self.assertIn("0.005", result.errors[0])

    def test_one_rank_cannot_read_its_model(self):
        """The error of one rank ends all, and only its line is printed."""
        good = os.path.join(tiny.folder(), "here")
        config = tiny.config("here", tiny.fresh_output("here"),
                             model={"path": "model"})
        for name in ("a", "b"):
            shutil.rmtree(os.path.join(good, name), ignore_errors=True)
            shutil.copytree(tiny.bert(), os.path.join(good, name, "model"))
        os.truncate(os.path.join(good, "b", "model", "model.safetensors"), 99)
        argv = jobs.command(["train", config], 1)
        argv[1:1] = ["-wdir", os.path.join(good, "a")]
        argv += [":", "-wdir", os.path.join(good, "b"), "-np", "1",
                 jobs.BINARY, "train", config]
        result = jobs.Job(argv).wait()
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("[rank 1] error:", result.errors[0])
        self.assertIn("model.safetensors", result.errors[0])

    def test_one_rank_has_another_model(self):
        """A tensor that differs is named before step 1."""
        import numpy as np
        from safetensors.numpy import load_file, save_file

        paths = []
        for name, add in (("same", 0), ("other", 1e-3)):
            path = os.path.join(tiny.folder(), f"model-{name}")
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(tiny.bert(), path)
            file = os.path.join(path, "model.safetensors")
            tensors = load_file(file)
            tensors["bert.pooler.dense.bias"] += np.float32(add)
            save_file(tensors, file)
            paths.append(path)
        config = tiny.config("two-models", tiny.fresh_output("two-models"))
        argv = jobs.command(["train", config, f"model.path={paths[0]}"], 1)
        argv += [":", "-np", "1", jobs.BINARY, "train", config,
                 f"model.path={paths[1]}"]
        result = jobs.Job(argv).wait()
        self.assertEqual(result.status, 2, result.err)
        self.assertEqual(len(result.errors), 1, result.err)
        self.assertIn("tensor 'bert.pooler.dense.bias' differs",
                      result.errors[0])

        # The same model under two names is one.
        argv[-1] = f"model.path={tiny.bert()}"
        result = jobs.Job(argv).wait()
        self.assertEqual(result.status, 0, result.err)


if __name__ == "__main__":
    unittest.main()
