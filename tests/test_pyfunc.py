"""The detector as MLflow calls it: batch by batch, and a row that is no image is named."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers import striped

import mofe.inference.mlflow_model
from mofe.errors import MofeError
from mofe.inference.mlflow_model import DetectorModel


@pytest.fixture
def model(detector: SimpleNamespace) -> DetectorModel:
    loaded = DetectorModel()
    loaded.load_context(SimpleNamespace(model_config=None, artifacts={"detector": detector.detector}))  # type: ignore[arg-type]
    return loaded


def test_a_batch_is_scored_before_the_next_is_decoded(model: DetectorModel, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [striped(i % 4, np.random.default_rng(i)) for i in range(70)]
    decoded, forward, real = [], [], model.detector.model.forward
    decode = mofe.inference.mlflow_model.decode
    monkeypatch.setattr(
        mofe.inference.mlflow_model, "decode", lambda content: decoded.append(content) or decode(content)
    )

    def watched(*given: Any) -> Any:
        forward.append(len(decoded))
        return real(*given)

    monkeypatch.setattr(model.detector.model, "forward", watched)
    answer = model.predict(None, pd.DataFrame({"image": images}))  # type: ignore[arg-type]
    assert forward == [64, 70]
    assert list(answer.index) == list(range(70))
    assert list(answer["class"]) == [f"class{i % 4}" for i in range(70)]


def test_a_row_that_is_no_image_is_named(model: DetectorModel) -> None:
    images = [striped(0, np.random.default_rng(0))] * 66 + [b"no image"]
    with pytest.raises(MofeError, match=r"^row 66 cannot be scored: it is not an image that can be read$"):
        model.predict(None, pd.DataFrame({"image": images}))  # type: ignore[arg-type]
