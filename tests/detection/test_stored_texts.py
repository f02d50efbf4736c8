"""The artifact of texts comes back as it was, or says what is wrong with it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

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


def test_a_run_without_a_text_model_has_no_texts(tmp_path: Path) -> None:
    without = INFO.model_copy(update={"parameters": {"text_model": ""}, "names": ()})
    with writing.staged(str(tmp_path / "texts")) as folder:
        write_texts(folder, without, None)
    info, texts = read_texts(str(tmp_path / "texts"))
    assert texts is None
    assert info.classes == ("a", "b")
    assert not (tmp_path / "texts" / TENSORS).exists()


@pytest.mark.parametrize(
    ("tensors", "missing"),
    [({"logit_scale": torch.ones(())}, "projection_DP"), ({"class_CP": torch.ones(1, 2)}, "logit_scale")],
)
def test_tensors_that_are_no_texts_are_told(tensors: dict[str, torch.Tensor], missing: str, tmp_path: Path) -> None:
    with writing.staged(str(tmp_path / "texts")) as folder:
        writing.write_bytes(folder / TENSORS, save(tensors))
        INFO.write(folder)
    with pytest.raises(MofeError, match=rf"{TENSORS} does not hold the texts: .*{missing}"):
        read_texts(str(tmp_path / "texts"))


def test_an_embedding_is_projected_as_it_is() -> None:
    projection, z = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 4.0]]), torch.tensor([[3.0, 2.0]], dtype=torch.float16)
    projected = Texts(projection, 100.0, torch.ones(1, 3)).project(z)
    assert projected.tolist() == [[3, 4, 9.5]]
    assert projected.dtype == torch.float32
