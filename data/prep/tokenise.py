"""A Hugging Face tokenizer folder, and what decoding its ids needs."""

import hashlib
import json
import os

from .errors import UserError

# Tried in order where tokenizer_config.json does not name the token.
_USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "eos": ("</s>", "<|endoftext|>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "unk": ("[UNK]", "<unk>"),
}


def _read_json(path):
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as e:
        raise UserError(f"{path}: cannot read: {e}") from None


class TextTokenizer:
    def __init__(self, folder):
        from tokenizers import Tokenizer

        path = folder
        if os.path.isdir(folder):
            path = os.path.join(folder, "tokenizer.json")
        try:
            with open(path, "rb") as f:
                data = f.read()
        except OSError as e:
            raise UserError(f"--tokenizer {folder}: cannot read {path}: "
                            f"{e.strerror} (a folder with a tokenizer.json is "
                            "needed)") from None
        try:
            self.tok = Tokenizer.from_str(data.decode("utf-8"))
            self.description = json.loads(data)
        except Exception as e:  # the library raises bare Exception
            raise UserError(f"--tokenizer {path}: not a tokenizer: "
                            f"{str(e).splitlines()[0]}") from None
        self.tok.no_padding()
        self.tok.no_truncation()
        self.sha256 = hashlib.sha256(data).hexdigest()
        vocab = self.tok.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        self.tokens = [""] * self.vocab_size
        for token, i in vocab.items():
            self.tokens[i] = token
        self._find_special(os.path.dirname(path))
        probe = self.tok.encode("a").ids
        self.ends_with_eos = self.eos_id >= 0 and probe[-1:] == [self.eos_id]

    def _find_special(self, folder):
        named = _read_json(os.path.join(folder, "special_tokens_map.json"))
        named.update(_read_json(os.path.join(folder, "tokenizer_config.json")))
        ids = {}
        for role, usual in _USUAL.items():
            token = named.get(f"{role}_token")
            if isinstance(token, dict):
                token = token.get("content")
            candidates = (token,) if token else usual
            found = [self.tok.token_to_id(t) for t in candidates]
            ids[role] = next((i for i in found if i is not None), -1)
        self.eos_id, self.cls_id = ids["eos"], ids["cls"]
        self.sep_id, self.unk_id = ids["sep"], ids["unk"]
        # Decoder-only vocabularies have no padding token; eos serves.
        self.pad_id = ids["pad"] if ids["pad"] >= 0 else max(self.eos_id, 0)

    def sentinels(self):
        """Ids of <extra_id_0>, <extra_id_1>, … as far as they go."""
        ids = []
        while True:
            i = self.tok.token_to_id(f"<extra_id_{len(ids)}>")
            if i is None:
                return ids
            ids.append(i)

    def encode(self, texts, max_tokens, end=False):
        """Texts, or (a, b) pairs, to [(ids, type ids, was cut)].

        Special tokens as the tokenizer's post-processor puts them; with `end`
        an end-of-sequence token follows where it has not put one.
        """
        append = end and not self.ends_with_eos
        if append and self.eos_id < 0:
            raise UserError("the tokenizer has no end-of-sequence token, which "
                            "text_to_text, span_corruption and lm need")
        texts = list(texts)
        pairs = bool(texts) and isinstance(texts[0], tuple)
        special = append + self.tok.num_special_tokens_to_add(pairs)
        if max_tokens <= special:
            raise UserError(f"a limit of {max_tokens} tokens leaves no room "
                            f"beside {special} special tokens")
        self.tok.enable_truncation(max_tokens - append,
                                   strategy="longest_first")
        out = []
        for e in self.tok.encode_batch(texts):
            ids, types = e.ids, e.type_ids
            if append:
                ids, types = ids + [self.eos_id], types + types[-1:]
            out.append((ids, types, bool(e.overflowing)))
        return out

    def encode_raw(self, texts):
        """Texts to ids, whole and without special tokens."""
        self.tok.no_truncation()
        return [e.ids for e in
                self.tok.encode_batch(list(texts), add_special_tokens=False)]

    def decode_table(self):
        """The content of vocab.json; docs/data_format.md says how to use it."""
        added = self.description.get("added_tokens") or []
        kind = ((self.description.get("decoder") or {}).get("type") or "")
        rules = {"WordPiece": "wordpiece", "Metaspace": "metaspace",
                 "ByteLevel": "byte_level"}
        if kind == "Sequence" and "Metaspace" in json.dumps(
                self.description["decoder"]):
            kind = "Metaspace"
        return {
            "version": 1,
            "decoder": rules.get(kind, "plain"),
            "special": sorted(t["id"] for t in added if t.get("special")),
            "tokens": self.tokens,
        }
