"""What is not a number is caught where it arises, with words that say where; never a figure in a report."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import TINY, train_small

from mofe.artifacts.tables import fixed_size_lists
from mofe.detection import knn
from mofe.errors import MofeError
from mofe.inference.detector import Detector
from mofe.models.checkpoint import load_model, save_model
from mofe.models.mofe import MoFE
from mofe.stages.extract import extract
from mofe.stages.index import index
from mofe.stages.score import score
from mofe.training import probe
from mofe.training.loop import Trainer


def spoil(monkeypatch: pytest.MonkeyPatch, field: str, value: float) -> None:
    """From its second batch on the model gives one such value."""
    real, calls = MoFE.forward, iter(range(10**6))

    def forward(self: MoFE, *inputs: Any) -> Any:
        output = real(self, *inputs)
        if next(calls):
            values = getattr(output, field).clone()
            values[0, 0] = value
            output = output._replace(**{field: values})
        return output

    monkeypatch.setattr(MoFE, "forward", forward)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["trunk_BD", "embedding_BD", "router_logits_BE", "logits"])
def test_features_and_logits(prepared: Path, tmp_path: Path, field: str, value: float, monkeypatch: Any) -> None:
    if (field, value) == ("logits", -math.inf):
        return  # that is what classes of other experts have
    spoil(monkeypatch, field, value)
    with pytest.raises(MofeError, match=r"^extract: the .* of train/\d+\.png is not finite; try precision=fp32$"):
        extract(str(prepared / "train"), str(tmp_path / "out"), backbone="vit_tiny_patch16_224", backbone_args=TINY,
                weights="random", batch_size=8, num_workers=0)  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_what_float16_cannot_hold() -> None:
    values_ND = np.ones((3, 4))
    values_ND[1, 2] = 70_000
    with pytest.raises(MofeError, match="row 1, column 2: 70000 does not fit into half"):
        fixed_size_lists(values_ND, pa.float16())
    assert len(fixed_size_lists(values_ND, pa.float32())) == 3


def test_the_loss_of_the_probe(trained: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    real = probe.losses_of
    monkeypatch.setattr(probe, "losses_of", lambda *a, **k: real(*a, **k)._replace(expert=torch.tensor(math.nan)))
    with pytest.raises(
        MofeError, match=r"loss of the linear probe is not finite \(route .*, expert nan\): try a lower"
    ):
        trained()


def test_a_model_that_breaks_in_its_last_step(trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "embedding_BD", math.nan)
    with pytest.raises(MofeError, match="gives values that are not finite"):
        trained()
    monkeypatch.setattr(Trainer, "predict_validation", lambda self: (np.zeros(4, int), np.zeros(4, int)))
    paths = trained("again")
    model, config = load_model(paths.model)
    model.heads[0].bias.fill_(math.inf)
    with pytest.raises(MofeError, match=r"the weights heads\.0\.bias of the model are not finite"):
        save_model(Path(paths.model), model, config)  # type: ignore[arg-type]


def test_scores(detector: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = knn.ExpertKNN.search
    monkeypatch.setattr(knn.ExpertKNN, "search", lambda *given: (np.nan * real(*given)[0], *real(*given)[1:]))
    message = r"^train: the score knn is not finite for 80 images, the first is train/\d+\.png: try precision=fp32, "
    with pytest.raises(MofeError, match=message):
        score(detector.images, detector.detector, str(tmp_path / "out"), num_workers=0)
    with pytest.raises(MofeError, match="not finite"):
        index(detector.images, detector.features, detector.model, str(tmp_path / "out"), compare=False, num_workers=0)
    assert not (tmp_path / "out").exists()
    assert Detector.read


def test_the_same_seed_gives_the_same_bytes(prepared: Path, tmp_path: Path) -> None:
    """Partition, features, model and history, to the last bit, and so the digests by which they know each other."""
    import shutil

    for name in ("a", "b"):
        shutil.copytree(prepared / "train", tmp_path / name / "train")
        extract(str(tmp_path / name / "train"), str(tmp_path / name / "features"), backbone="vit_tiny_patch16_224",
                backbone_args=TINY, weights="random", num_workers=0)  # fmt: skip
        train_small(tmp_path / name, epochs=1, augmentation="randaugment", num_workers=2 if name == "b" else 0)
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file())
    for file in files:
        if file.name != "history.json":  # it says how fast it was
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
