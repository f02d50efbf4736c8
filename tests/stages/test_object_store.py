"""Every stage from an object store to an object store: paths and URIs are the same to all of them."""

import os
import uuid
from collections.abc import Callable, Iterator

import fsspec
import pytest
from helpers import TINY

from mofe import load_detector
from mofe.artifacts import Metrics
from mofe.stages.evaluate import evaluate
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.index import index
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare
from mofe.stages.score import score


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty place; on the S3 server that AWS_ENDPOINT_URL names, if there is one."""
    if request.param == "memory":
        yield "memory://way"
        return
    if "AWS_ENDPOINT_URL" not in os.environ:
        pytest.skip("AWS_ENDPOINT_URL names no S3 server")
    store = fsspec.filesystem("s3")
    name = f"mofe-test-{uuid.uuid4().hex[:12]}"
    store.mkdir(name)
    yield f"s3://{name}/way"
    store.rm(name, recursive=True)


def test_the_whole_way(make_images: Callable[..., str], bucket: str) -> None:
    for name, role, classes in (("train", "train", (0, 1, 2)), ("id-test", "test", (0, 1, 2)), ("odd", "ood", (5, 6))):
        local = make_images(name, role, classes, per_class=24)
        prepare(f"{local}/*.parquet", f"{bucket}/{name}", name=name, role=role, digest=name)  # type: ignore[arg-type]
    options = {"num_workers": 0, "precision": "fp32"}
    backbone = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random"}
    extract(f"{bucket}/train", f"{bucket}/features", **backbone, **options)  # type: ignore[arg-type]
    partition(f"{bucket}/features", f"{bucket}/partition", num_experts=2, strategy="kmeans++")
    finetune(
        f"{bucket}/train", f"{bucket}/features", f"{bucket}/partition", f"{bucket}/model", f"{bucket}/history",
        epochs=12, warmup_epochs=1.0, probe_epochs=40, probe_learning_rate=0.01, learning_rate=1e-3,
        batch_size=12, micro_batch_size=12, augmentation="none",
        checkpoints=f"{bucket}/checkpoints", **options,
    )  # type: ignore[arg-type]  # fmt: skip
    index(f"{bucket}/train", f"{bucket}/model", f"{bucket}/detector", **options)  # type: ignore[arg-type]
    for name in ("id-test", "odd"):
        score(f"{bucket}/{name}", f"{bucket}/detector", f"{bucket}/scores-{name}", **options)  # type: ignore[arg-type]
    outputs = {name: f"{bucket}/report/{name}" for name in ("metrics", "roc", "report")}
    scores = [f"{bucket}/scores-id-test", f"{bucket}/scores-odd"]
    evaluate(scores, f"{bucket}/partition", f"{bucket}/history", **outputs)
    store, root = fsspec.core.url_to_fs(bucket)
    assert Metrics.model_validate_json(store.cat(f"{root}/report/metrics")).id_accuracy > 0.8
    assert b"</html>" in store.cat(f"{root}/report/report")
    kept = {name.split("/checkpoints/")[1].split("/")[1] for name in store.find(f"{root}/checkpoints")}
    assert len(kept) == 2  # the last two
    assert not [name for name in store.find(root) if "partial" in name]
    assert load_detector(f"{bucket}/detector").classes == ("class0", "class1", "class2")
