"""partition: JSON that says everything, a figure that names everything."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import TINY

from mofe.artifacts.features import FeatureInfo, Features
from mofe.artifacts.partition import Partition
from mofe.artifacts.tables import fixed_size_lists
from mofe.models import describe_backbone
from mofe.stages.partition import partition
from mofe.storage import writing

CLASSES = ("n02099601", "n02123045", "teapot", "truck")


def write_features(folder: Path) -> str:
    rng = np.random.default_rng(0)
    prototypes = {"prototype": fixed_size_lists(rng.normal(size=(4, 8)), pa.float32())}
    with writing.staged(folder) as place:
        with writing.file(place / Features.PROTOTYPES) as file:
            pq.write_table(pa.table(prototypes), file)
        FeatureInfo(
            backbone=describe_backbone("vit_tiny_patch16_224", TINY, "random"),
            dim=8,
            num_images=0,
            classes=CLASSES,
            synsets=(*CLASSES[:2], None, None),
        ).write(place)
    return str(folder)


def test_the_same_features_give_the_same_bytes(tmp_path: Path) -> None:
    features = write_features(tmp_path / "features")
    for name in ("a", "b"):
        partition(features, str(tmp_path / name), num_experts=2)
    written = [(tmp_path / name / "partition.json").read_bytes() for name in ("a", "b")]
    assert written[0] == written[1]
    found = Partition.read(str(tmp_path / "a"))
    assert found.names == ("golden retriever", "tabby", "teapot", "truck")
    assert found.synsets[0] == "golden_retriever.n.01"
