"""Small models and data for whole-job tests, made once per process: a BERT, a
GPT-2 and a T5 of odd sizes with random weights, and shards by data/prepare.py."""

import atexit
import functools
import json
import os
import random
import shutil
import subprocess
import tempfile

from tests.harness import jobs

LABELS = 3
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "</s>"]
WORDS = [f"w{i}" for i in range(200)]


@functools.cache
def folder():
    path = tempfile.mkdtemp(prefix="thinwire-test-")
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _write_tokenizer(path, framed=True):
    """framed: as BERT's, [CLS] and [SEP] around every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {w: i for i, w in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(os.path.join(path, "tokenizer.json"))
    with open(os.path.join(path, "tokenizer_config.json"), "w",
              encoding="utf-8") as f:
        json.dump({"pad_token": "[PAD]", "unk_token": "[UNK]",
                   "cls_token": "[CLS]", "sep_token": "[SEP]",
                   "eos_token": "</s>"}, f)


def bert_config():
    return {"model_type": "bert", "architectures": ["BertModel"],
            "hidden_size": 32, "num_attention_heads": 4,
            "num_hidden_layers": 2, "intermediate_size": 48,
            "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": 40,
            "type_vocab_size": 2, "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "layer_norm_eps": 1e-12, "pad_token_id": 0,
            "initializer_range": 0.02}


@functools.cache
def bert():
    """An HF folder: config.json, model.safetensors, tokenizer.json."""
    import numpy as np
    from safetensors.numpy import save_file

    path = os.path.join(folder(), "bert")
    os.makedirs(path)
    _write_tokenizer(path)
    config = bert_config()
    with open(os.path.join(path, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f)
    rng = np.random.default_rng(7)
    tensors = {}

    def normal(name, *shape):
        tensors["bert." + name] = rng.normal(
            0, 0.15, shape).astype(np.float32)

    def norm(name, d):
        tensors[f"bert.{name}.weight"] = np.ones(d, np.float32)
        tensors[f"bert.{name}.bias"] = np.zeros(d, np.float32)

    d, f = config["hidden_size"], config["intermediate_size"]
    normal("embeddings.word_embeddings.weight", config["vocab_size"], d)
    normal("embeddings.position_embeddings.weight",
           config["max_position_embeddings"], d)
    normal("embeddings.token_type_embeddings.weight", 2, d)
    norm("embeddings.LayerNorm", d)

    def linear(name, rows, columns):
        normal(f"{name}.weight", rows, columns)
        normal(f"{name}.bias", rows)

    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.self.{part}", d, d)
        linear(f"{layer}.attention.output.dense", d, d)
        norm(f"{layer}.attention.output.LayerNorm", d)
        linear(f"{layer}.intermediate.dense", f, d)
        linear(f"{layer}.output.dense", d, f)
        norm(f"{layer}.output.LayerNorm", d)
    linear("pooler.dense", d, d)
    save_file(tensors, os.path.join(path, "model.safetensors"),
              metadata={"format": "pt"})
    return path


@functools.cache
def t5_config():
    path = os.path.join(folder(), "t5-config.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"model_type": "t5",
                   "architectures": ["T5ForConditionalGeneration"],
                   "d_model": 32, "d_kv": 12, "num_heads": 3, "d_ff": 40,
                   "num_layers": 2, "num_decoder_layers": 1,
                   "vocab_size": len(SPECIAL + WORDS),
                   "relative_attention_num_buckets": 8,
                   "relative_attention_max_distance": 16,
                   "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
                   "feed_forward_proj": "gated-gelu",
                   "tie_word_embeddings": False, "pad_token_id": 0,
                   "eos_token_id": 4, "decoder_start_token_id": 0,
                   "initializer_factor": 1.0}, f)
    return path


def _rows(count, seed):
    """Texts of unequal length whose class shows in one of their words."""
    rng = random.Random(seed)
    for _ in range(count):
        label = rng.randrange(LABELS)
        words = rng.choices(WORDS[LABELS:], k=rng.randint(2, 24))
        words[rng.randrange(len(words))] = WORDS[label]
        yield " ".join(words), label


def prepare(output, *arguments, tokenizer=None):
    subprocess.run([jobs.PYTHON, os.path.join(jobs.ROOT, "data/prepare.py"),
                    "--tokenizer", tokenizer or bert(), "--output", output,
                    "--max-tokens", "32", *arguments],
                   check=True, stdout=subprocess.DEVNULL)
    return output


@functools.cache
def classify_shards(split):
    count, seed = {"train": (600, 1), "eval": (90, 2), "few": (3, 3)}[split]
    table = os.path.join(folder(), f"classify-{split}.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("text\tlabel\n")
        for text, label in _rows(count, seed):
            f.write(f"{text}\t{label}\n")
        if split == "few":  # every class, so that counts agree
            f.write(f"{WORDS[9]}\t{LABELS - 1}\n")
    return prepare(os.path.join(folder(), f"classify-{split}"), "--task",
                   "classify", "--input", table, "--columns", "text,label",
                   "--label-names", ",".join(map(str, range(LABELS))))


@functools.cache
def text_shards(split):
    count, seed = {"train": (400, 4), "eval": (60, 5)}[split]
    table = os.path.join(folder(), f"text-{split}.tsv")
    rng = random.Random(seed)
    with open(table, "w", encoding="utf-8") as f:
        f.write("source\ttarget\n")
        for text, label in _rows(count, seed):
            words = rng.choices(WORDS[:10], k=rng.randint(1, 6))
            f.write(f"{text}\t{WORDS[label]} {' '.join(words)}\n")
    return prepare(os.path.join(folder(), f"text-{split}"), "--task",
                   "text_to_text", "--input", table, "--columns",
                   "source,target", "--max-target-tokens", "12")


def config(name, output, **sections):
    """Writes a config over the tiny BERT. data, train and comm are merged key
    by key with what stands here, other sections replaced."""
    content = {
        "model": {"path": bert()},
        "task": {"kind": "classify", "labels": LABELS},
        "data": {"train": classify_shards("train"),
                 "eval": classify_shards("eval"), "batch_size": 8},
        "peft": [{"method": "lora", "r": 4, "dropout": 0.1}],
        "train": {"steps": 12, "lr": 5e-3, "weight_decay": 0.01,
                  "eval_every": 6, "checkpoint_every": 3, "log_every": 1,
                  "threads": 1},
        "comm": {"timeout": 30},
        "output": output,
    }
    for section, keys in sections.items():
        if section in ("data", "train", "comm"):
            content[section] = {**content[section], **keys}
        else:
            content[section] = keys
    path = os.path.join(folder(), f"{name}.yaml")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(content, f, indent=1)  # JSON is YAML
    return path


def fresh_output(name):
    path = os.path.join(folder(), "runs", name)
    shutil.rmtree(path, ignore_errors=True)
    return path


def t5_sections():
    """Sections that turn config() into a T5 on ragged text-to-text targets."""
    return {"model": {"config": t5_config(), "seed": 3},
            "task": {"kind": "text_to_text", "max_new_tokens": 8},
            "data": {"train": text_shards("train"),
                     "eval": text_shards("eval"), "batch_size": 4}}


@functools.cache
def gpt2_config():
    path = os.path.join(folder(), "gpt2-config.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
                   "n_embd": 32, "n_head": 4, "n_layer": 2, "n_inner": 48,
                   "n_positions": 48, "vocab_size": len(SPECIAL + WORDS),
                   "initializer_range": 0.1, "eos_token_id": 4}, f)
    return path


@functools.cache
def gpt2_tokenizer():
    path = os.path.join(folder(), "gpt2-tokenizer")
    os.mkdir(path)
    _write_tokenizer(path, framed=False)
    return path


@functools.cache
def lm_shards(split):
    """Prompts whose class shows in one word, and that class behind them."""
    count, seed = {"train": (400, 6), "eval": (60, 7)}[split]
    table = os.path.join(folder(), f"lm-{split}.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("prompt\tanswer\n")
        for text, label in _rows(count, seed):
            f.write(f"{text}\t{WORDS[LABELS]} {WORDS[label]}\n")
    return prepare(os.path.join(folder(), f"lm-{split}"), "--task", "lm",
                   "--input", table, "--columns", "prompt,answer",
                   "--max-target-tokens", "12", tokenizer=gpt2_tokenizer())


@functools.cache
def plain_text_shards():
    """Texts without a prompt: the folder, and how many words each has."""
    texts = [text for text, _ in _rows(20, 8)]
    table = os.path.join(folder(), "plain.tsv")
    with open(table, "w", encoding="utf-8") as f:
        f.write("\n".join(["text", *texts]) + "\n")
    shards = prepare(os.path.join(folder(), "plain"), "--task", "lm",
                     "--input", table, tokenizer=gpt2_tokenizer())
    return shards, [len(text.split()) for text in texts]


def gpt2_sections():
    """Sections that turn config() into a GPT-2 on prompts and answers."""
    return {"model": {"config": gpt2_config(), "seed": 3},
            "task": {"kind": "lm", "max_new_tokens": 8},
            "data": {"train": lm_shards("train"), "eval": lm_shards("eval"),
                     "batch_size": 8}}
