"""Golden text: HF's generate() on the models of make_bart.py, make_gpt2.py and
make_t5.py."""

import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from transformers.generation import logits_process

import common_generate
from common import HERE
from common_generate import load, write

torch.set_num_threads(1)


def inputs():
    return common_generate.inputs((5, 1, 9, 3, 12, 7, 2, 4))


def case(name, eos, sharpen=1.0, **how):
    how = {"max_new_tokens": 14, **how}
    texts, scores = write(load(name, sharpen), inputs(), eos, how)
    print(name, eos, how, [len(text) for text in texts],
          len({t for text in texts for t in text}))
    return {"model": name, "eos": eos, "sharpen": sharpen, "config": how,
            "outputs": texts, "scores": scores}


def own_case(name, eos, sharpen, changes=None, generation=None, **how):
    """Of a model with another config.json and a generation_config.json."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        shutil.copy(HERE / name / "model.safetensors", path)
        config = json.loads((HERE / name / "config.json").read_text())
        config = {k: v for k, v in {**config, **(changes or {})}.items()
                  if v != "absent"}
        (path / "config.json").write_text(json.dumps(config))
        if generation is not None:
            (path / "generation_config.json").write_text(
                json.dumps(generation))
        how = {"max_new_tokens": 6, **how}
        texts, scores = write(load(name, sharpen, path), inputs(), eos, how)
    print(name, eos, changes, generation, how, texts)
    return {"model": name, "eos": eos, "sharpen": sharpen, "config": how,
            "model_config": config, "generation_config": generation,
            "outputs": texts, "scores": scores}


def own_cases():
    forced = {"forced_bos_token_id": 5, "forced_eos_token_id": 36}
    start = {"decoder_start_token_id": 7}
    for how in (
        {},
        {"num_beams": 3},
        {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 1},
        {"max_new_tokens": 1},
        {"num_beams": 2, "max_new_tokens": 2, "min_new_tokens": 2},
    ):
        yield own_case("bart_text", 36, 0.3, forced, **how)
        yield own_case("bart_text", 36, 0.3, {}, {**start, **forced}, **how)
    # generation_config.json stands in place of what config.json says, and a
    # first token in place of a start.
    yield own_case("bart_text", 36, 0.3, forced, start)
    yield own_case("bart_text", 36, 0.3, forced, {"bos_token_id": 9})
    # The forced token need not end the text.
    yield own_case("bart_text", 36, 0.3, {"forced_eos_token_id": 8})
    yield own_case("bart_text", 36, 0.3, {"forced_eos_token_id": "absent"})
    yield own_case("bart_text", 36, 0.3, {"decoder_start_token_id": "absent"})
    yield own_case("t5_gated", 31, 0.5, {}, {**start, **forced}, num_beams=2)
    yield own_case("gpt2_lm", 36, 0.5, {}, forced, num_beams=2)


def cases():
    for name, eos in (("t5_tied", 15), ("t5_gated", 1), ("t5_gated", 19),
                      ("t5_gated", 31)):
        yield case(name, eos)
    for how in (
        {"num_beams": 2},
        {"num_beams": 4},
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 4, "early_stopping": "never", "length_penalty": 2.0},
        {"num_beams": 3, "length_penalty": 0.6},
        {"num_beams": 3, "length_penalty": 0.0},
        {"num_beams": 3, "length_penalty": -1.0},
        {"num_beams": 5, "no_repeat_ngram_size": 2},
        {"num_beams": 4, "min_new_tokens": 6, "max_new_tokens": 11},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 3, "min_new_tokens": 5},
        {"num_beams": 4, "max_new_tokens": 1},
    ):
        yield case("t5_tied", 15, sharpen=2.0, **how)
        yield case("t5_gated", 31, sharpen=0.5, **how)
    for how in ({}, {"num_beams": 3}, {"num_beams": 4, "length_penalty": 2.0}):
        yield case("bart_bare", 23, **how)
        yield case("bart_text", 36, sharpen=0.3, **how)
    for how in (
        {},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 4},
        {"num_beams": 2},
        {"num_beams": 4, "early_stopping": True},
        {"num_beams": 3, "length_penalty": 2.0},
        {"num_beams": 4, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    ):
        # The longest prompt has 12 of 19 positions.
        yield case("gpt2_lm", 36, sharpen=0.5, max_new_tokens=8, **how)
    yield from own_cases()


def kept(logits, temperature, top_k, top_p):
    """What HF's processors leave of a distribution, and what they make it."""
    scores = torch.tensor([logits])
    ids = torch.zeros(1, 1, dtype=torch.long)
    for process in (
        logits_process.TemperatureLogitsWarper(temperature),
        logits_process.TopKLogitsWarper(top_k or len(logits)),
        logits_process.TopPLogitsWarper(top_p),
    ):
        scores = process(ids, scores)
    p = torch.softmax(scores[0].double(), 0)
    tokens = torch.nonzero(scores[0] > -torch.inf)[:, 0].tolist()
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p,
            "tokens": tokens,
            "probabilities": [round(x, 10) for x in p[tokens].tolist()]}


def distributions():
    g = torch.Generator().manual_seed(7)
    few = 3 * torch.randn(41, generator=g)
    # More tokens than are sorted at a time, and equal ones at the border.
    many = 0.5 * torch.randn(700, generator=g)
    ties = [2.0, 1.0, 1.0, 1.0, 0.0, -1.0]
    hows = ((1.0, 0, 0.9), (0.7, 0, 0.5), (1.0, 3, 1.0), (1.3, 10, 0.8),
            (1.0, 50, 0.99), (1.0, 0, 0.01))
    for logits in (few, many):
        logits = [round(x, 6) for x in logits.tolist()]
        yield {"logits": logits, "kept": [kept(logits, *h) for h in hows]}
    # Of equals at the border of top_p either may stay; top_k keeps all.
    yield {"logits": ties, "kept": [kept(ties, 1.0, 3, 1.0)]}


out = {"transformers": transformers.__version__, "torch": torch.__version__,
       "inputs": inputs(), "cases": list(cases()),
       "distributions": list(distributions())}
path = HERE / "generate.json"
path.write_text(json.dumps(out) + "\n")
print(path.stat().st_size, "bytes")
