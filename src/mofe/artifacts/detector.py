"""A model that knows what is unusual: banks of known images, and thresholds."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pyarrow as pa

from mofe.artifacts.manifest import Manifest

Bank = Literal["expert", "global"]
"""Whose images a KNN score looks among: those of the expert that an image is routed to, or all."""


class DetectorInfo(Manifest):
    """``detector.json``: a model with one FAISS index per expert, and thresholds."""

    file_name: ClassVar[str] = "detector.json"
    what: ClassVar[str] = "detector"
    knn_k: int
    bank: Bank = "expert"
    bank_sizes: tuple[int, ...]
    """Training images of each expert."""
    thresholds: dict[str, float]
    """Per score: the largest threshold that keeps at least 95 % of the validation images."""
    num_validation: int
    compared: tuple[str, ...] = ()
    """Scores of other detectors, which it can give as well: see :mod:`mofe.detection.baselines`."""
    parameters: dict[str, Any]
    """Of the pipeline, that decided what it is."""


BANK_SCHEMA = pa.schema({"id": pa.string(), "label": pa.int32(), "expert": pa.int32()})
"""Which training image each row of the indexes is."""


def calibration_schema(scores: Iterable[str]) -> pa.Schema:
    """The scores of the validation images, a column a score; float64, as those of other images are."""
    return pa.schema([(name, pa.float64()) for name in scores])
