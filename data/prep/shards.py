"""Writes a folder of HDF5 shards: docs/data_format.md, version 1."""

import json
import os

import h5py
import numpy as np
import xxhash

from .errors import UserError

FORMAT_VERSION = 1
_VALUES_CHUNK = 8192    # elements of flat token and text data in a chunk
_PER_SAMPLE_CHUNK = 1024
_MAX_SHARD_VALUES = 1 << 25  # closes a shard early: bounds memory


class _Ragged:
    """Lists end to end, and where each begins."""

    def __init__(self, dtype):
        self.dtype, self.parts, self.ends = dtype, [], [0]

    def add(self, items):
        self.parts.append(np.asarray(items, self.dtype))
        self.ends.append(self.ends[-1] + len(items))

    def values(self):
        if not self.parts:
            return np.zeros(0, self.dtype)
        return np.concatenate(self.parts)

    def longest(self):
        return int(np.max(np.diff(self.ends), initial=0))


def _dataset(group, name, data, chunk):
    """Chunked, shuffled, deflated, checksummed; an empty one is contiguous."""
    if data.size == 0:
        group.create_dataset(name, data=data)
        return
    group.create_dataset(name, data=data, chunks=(min(chunk, data.size),),
                         shuffle=True, compression="gzip", compression_opts=1,
                         fletcher32=True)


def open_hdf5(path, mode):
    # Both bounds at 1.10: its metadata carries checksums, the older does not.
    return h5py.File(path, mode, libver=("v110", "v110"), track_order=False)


def file_digest(path):
    h = xxhash.xxh3_128()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def _sync_write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())


class ShardWriter:
    """One folder. add() samples, then finish(); memory holds one shard."""

    def __init__(self, folder, task, tokenizer, shard_samples, source):
        self.folder, self.task, self.tokenizer = folder, task, tokenizer
        self.shard_samples, self.source = shard_samples, source
        self.shards, self.samples, self.truncated = [], 0, 0
        self.max_input = self.max_target = 0
        os.makedirs(folder)
        self._start()

    def _start(self):
        self.input, self.types = _Ragged("<i4"), _Ragged("u1")
        self.target, self.reference = _Ragged("<i4"), _Ragged("u1")
        self.choices = _Ragged("<i4")
        self.reference_ends = [0]  # how many with each sample
        self.ids, self.task_ids, self.labels = [], [], []
        self.shard_truncated = 0

    def add(self, sample):
        self.input.add(sample["input"])
        self.types.add(sample.get("types") or
                       np.zeros(len(sample["input"]), "u1"))
        if "target" in sample:
            self.target.add(sample["target"])
        if "choices" in sample:
            self.choices.add(sample["choices"])
        for text in sample.get("references", ()):
            self.reference.add(np.frombuffer(text.encode("utf-8"), "u1"))
        self.reference_ends.append(len(self.reference.ends) - 1)
        if "label" in sample:
            self.labels.append(sample["label"])
        self.ids.append(sample["id"])
        self.task_ids.append(sample["task"])
        self.shard_truncated += sample["truncated"]
        if (len(self.ids) >= self.shard_samples or
                self.input.ends[-1] + self.target.ends[-1] > _MAX_SHARD_VALUES):
            self._close_shard()

    def _close_shard(self):
        n = len(self.ids)
        if n == 0:
            return
        name = f"shard-{len(self.shards):05d}.h5"
        with open_hdf5(os.path.join(self.folder, name), "w") as f:
            _dataset(f, "input/values", self.input.values(), _VALUES_CHUNK)
            _dataset(f, "input/offsets", np.asarray(self.input.ends, "<i8"),
                     _PER_SAMPLE_CHUNK)
            types = self.types.values()
            if types.any():
                _dataset(f, "types/values", types, _VALUES_CHUNK)
            for group, lists in (("target", self.target),
                                 ("choices", self.choices),
                                 ("references", self.reference)):
                if lists.parts:
                    _dataset(f, f"{group}/values", lists.values(),
                             _VALUES_CHUNK)
                    _dataset(f, f"{group}/offsets",
                             np.asarray(lists.ends, "<i8"), _PER_SAMPLE_CHUNK)
            if self.reference_ends[-1] > n:  # some have several
                _dataset(f, "references/samples",
                         np.asarray(self.reference_ends, "<i8"),
                         _PER_SAMPLE_CHUNK)
            _dataset(f, "id", np.asarray(self.ids, "<u8"), _PER_SAMPLE_CHUNK)
            _dataset(f, "task", np.asarray(self.task_ids, "<i4"),
                     _PER_SAMPLE_CHUNK)
            self._attributes(f, n)
        if self.labels:
            # Class numbers are known when all names are; kept aside till then.
            np.save(self._label_file(name), np.asarray(self.labels))
        self.samples += n
        self.truncated += self.shard_truncated
        self.max_input = max(self.max_input, self.input.longest())
        self.max_target = max(self.max_target, self.target.longest())
        self.shards.append({"file": name, "samples": n,
                            "input_tokens": int(self.input.ends[-1]),
                            "target_tokens": int(self.target.ends[-1])})
        self._start()

    def _label_file(self, name):
        return os.path.join(self.folder, name + ".labels.npy")

    def _attributes(self, f, n):
        t, a = self.tokenizer, f.attrs

        def text(name, value):
            # Fixed length: a variable one would lie outside all checksums.
            data = value.encode("utf-8") or b"-"
            a.create(name, np.bytes_(data),
                     dtype=h5py.string_dtype("utf-8", len(data)))

        a["thinwire_format"] = np.int64(FORMAT_VERSION)
        text("task_kind", self.task)
        a["samples"] = np.int64(n)
        text("tokenizer_sha256", t.sha256)
        a["vocab_size"] = np.int64(t.vocab_size)
        a["pad_id"] = np.int64(t.pad_id)
        a["eos_id"] = np.int64(t.eos_id)
        a["max_len"] = np.int64(self.input.longest())
        a["n_truncated"] = np.int64(self.shard_truncated)
        text("source", self.source)

    def finish(self, label_names=None, label_codes=None):
        """Class labels: code c given to add() becomes label_codes[c]."""
        self._close_shard()
        if self.samples == 0:
            raise UserError(f"{os.path.basename(self.folder)}: no samples fell "
                            "into this split; give it a larger share")
        self.histogram = np.zeros(len(label_names or []), np.int64)
        for shard in self.shards:
            path = os.path.join(self.folder, shard["file"])
            spool = self._label_file(shard["file"])
            if os.path.exists(spool):
                labels = np.load(spool)
                if label_codes is not None:
                    labels = np.asarray(label_codes, "<i8")[labels]
                    self.histogram += np.bincount(
                        labels, minlength=len(self.histogram))
                with open_hdf5(path, "r+") as f:
                    _dataset(f, "label", labels, _PER_SAMPLE_CHUNK)
                os.remove(spool)
            fd = os.open(path, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
            shard["bytes"] = os.path.getsize(path)
            shard["xxh3_128"] = file_digest(path)
        self._write_index(label_names or [])

    def _write_index(self, label_names):
        t = self.tokenizer
        _sync_write(os.path.join(self.folder, "vocab.json"),
                    json.dumps(t.decode_table(), ensure_ascii=False) + "\n")
        index = {
            "format": "thinwire-shards",
            "version": FORMAT_VERSION,
            "task": self.task,
            "samples": self.samples,
            "labels": len(label_names),
            "label_names": label_names,
            "max_input": self.max_input,
            "max_target": self.max_target,
            "n_truncated": self.truncated,
            "tokenizer_sha256": t.sha256,
            "vocab_size": t.vocab_size,
            "pad_id": t.pad_id,
            "eos_id": t.eos_id,
            "cls_id": t.cls_id,
            "sep_id": t.sep_id,
            "unk_id": t.unk_id,
            "vocabulary": "vocab.json",
            "source": self.source,
            "shards": self.shards,
        }
        _sync_write(os.path.join(self.folder, "index.json"),
                    json.dumps(index, indent=1, ensure_ascii=False) + "\n")
