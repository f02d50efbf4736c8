"""The artifact of texts comes back as it was, or says what is wrong with it."""

from pathlib import Path

import pytest
import torch

from mofe.artifacts.backbone import Backbone, Preprocessing
from mofe.artifacts.texts import TextInfo
from mofe.detection.texts import TENSORS, Texts, read_texts, write_texts
from mofe.errors import MofeError
from mofe.storage import writing

LOOK = Preprocessing(image_size=16, mean=(0, 0, 0), std=(1, 1, 1), interpolation="bicubic", crop_fraction=1)
INFO = TextInfo(
    digest="",
    backbone=Backbone(name="vit", args={}, weights="", weights_digest="", depth=1, preprocessing=LOOK),
    classes=("a", "b"),
    names=("A", "B"),
    negatives=(),
    parameters={"text_model": "ViT-B-16"},
)


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    shared = torch.randn(2, 5)
    texts = Texts(torch.randn(3, 5).T.contiguous().T, 99.99999, shared, nice_CP=shared, lsn_no_JCP=torch.randn(2, 2, 5))
    with writing.staged(str(tmp_path / "texts")) as folder:
        write_texts(folder, INFO, texts)
    info, again = read_texts(str(tmp_path / "texts"))
    assert info.model_dump(exclude={"files"}) == INFO.model_dump(exclude={"files"})
    assert again is not None
    assert (again.logit_scale, again.negative_KP) == (texts.logit_scale, None)
    for name in ("projection_DP", "class_CP", "nice_CP", "lsn_no_JCP"):
        assert torch.equal(getattr(again, name), getattr(texts, name))


def test_damage_is_told(tmp_path: Path) -> None:
    with writing.staged(str(tmp_path / "texts")) as folder:
        write_texts(folder, INFO, Texts(torch.randn(3, 5), 100.0, torch.randn(2, 5)))
    file = tmp_path / "texts" / TENSORS
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(MofeError, match=rf"{TENSORS} is damaged"):
        read_texts(str(tmp_path / "texts"))
    file.unlink()
    with pytest.raises(MofeError, match=rf"{TENSORS}"):
        read_texts(str(tmp_path / "texts"))
