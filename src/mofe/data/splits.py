"""Splits of a data set whose files or folders lie side by side, named as Hugging Face's users name them."""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
_SPLIT = re.compile("|".join(f"(?P<{name}>(?<![a-z])(?:{words})(?![a-z]))" for name, words in _WORDS.items()), re.I)
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")


def split_of(name: str) -> str:
    """The split that a file's or folder's name tells; "" if it tells none.

    ``train-00000-of-00002.parquet`` and ``pets_train.tar`` are of ``train``, ``val`` is ``validation``, and
    ``sketches-00000-of-00001.parquet`` is of ``sketches``.
    """
    base = PurePosixPath(name).name
    if found := _SPLIT.search(base):
        return str(found.lastgroup)
    shard = _SHARD.match(base)
    return shard["split"] if shard else ""


def is_split(folder: str) -> bool:
    """Whether the name of a folder is that of a split and nothing else."""
    return bool(_SPLIT.fullmatch(folder))


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """The splits that names tell, each with the first of its names; "" for names that tell none."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(split_of(name), name)
    return found


def examples(found: dict[str, str]) -> str:
    """The splits in words: ``test (test-0.parquet), train (train-0.parquet)``."""
    return ", ".join(f"{split or 'none'} ({name})" for split, name in sorted(found.items()))
