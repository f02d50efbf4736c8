"""The detector: a model with banks of known images, and thresholds."""

from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import pyarrow as pa

from mofe.artifacts.manifest import Manifest

Bank = Literal["expert", "global"]
"""Training images that a KNN score searches: those of the expert that an image is routed to, or all."""


class DetectorInfo(Manifest):
    """``detector.json``: a model with one FAISS index per expert, and thresholds."""

    file_name: ClassVar[str] = "detector.json"
    what: ClassVar[str] = "detector"
    schema_version: int = 3
    """Version 3, because earlier detectors do not hold their precision, and read MOS off the wrong embeddings."""
    knn_k: int
    bank: Bank = "expert"
    bank_sizes: tuple[int, ...]
    """Number of training images of each expert."""
    thresholds: dict[str, float]
    """For each score, the largest threshold that keeps at least 95 % of the validation images."""
    num_validation: int
    precision: Literal["bf16", "fp32"]
    """Precision of matrix products in which the known images were embedded, also where ``auto`` was requested."""
    baselines: tuple[str, ...] = ()
    """Scores of the baselines that were fitted too: see :mod:`mofe.detection.baselines`."""
    parameters: dict[str, Any]
    """Pipeline parameters that the detector depends on."""


BANK_SCHEMA = pa.schema({"id": pa.string(), "label": pa.int32(), "expert": pa.int32()})
"""The training image of each row of the indexes."""


def calibration_schema(scores: Iterable[str]) -> pa.Schema:
    """Schema of the validation images' scores: one float64 column per score, as in :mod:`mofe.artifacts.scores`."""
    return pa.schema([(name, pa.float64()) for name in scores])
