"""The demo's data: what it says it is, the same each time, and never over someone's files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mofe.data.digits import KNOWN, NAMES, SYNSETS, write_digits
from mofe.errors import MofeError
from mofe.partitioning.wordnet import path_from_root


def test_the_folders_hold_the_scans(tmp_path: Path) -> None:
    target = tmp_path / "digits"
    assert write_digits(str(target))
    scans, labels = load_digits(return_X_y=True)
    found = sorted([*(target / "train").rglob("*.png"), *(target / "test").rglob("*.png")])
    assert len(found) == (labels < KNOWN).sum()
    for file in found[::50]:
        number = int(file.stem)
        assert file.parent.name == NAMES[labels[number]]
        np.testing.assert_allclose(np.asarray(Image.open(file)) / 255, scans[number].reshape(8, 8) / 16, atol=0.003)
    assert {f.name for f in (target / "near-ood").iterdir()} == {"eight", "nine"}
    assert {f.name for f in (target / "train").iterdir()} == {*NAMES[:KNOWN], "synsets.csv"}
    for far in ("far-ood-letters", "far-ood-photos"):
        sizes = {Image.open(f).size for f in (target / far).iterdir()}
        assert sizes == {(8, 8)}
        assert len(list((target / far).iterdir())) >= 400


def test_it_is_the_same_each_time_and_left_alone_when_complete(tmp_path: Path) -> None:
    write_digits(str(tmp_path / "a"))
    write_digits(str(tmp_path / "b"))
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*.png"))
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    stamp = (tmp_path / "a" / files[0]).stat().st_mtime_ns
    assert not write_digits(str(tmp_path / "a"))
    assert (tmp_path / "a" / files[0]).stat().st_mtime_ns == stamp


def test_other_peoples_files_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(MofeError, match="is neither the digits nor an empty folder"):
        write_digits(str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_synsets_are_digits() -> None:
    assert len(set(SYNSETS)) == KNOWN
    assert all(path_from_root(synset)[-2] == "digit.n.01" for synset in SYNSETS)
