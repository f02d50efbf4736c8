"""Every stage from an object store to an object store: paths and URIs are the same to all of them."""

from collections.abc import Callable

import fsspec
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


def test_the_whole_way(make_images: Callable[..., str]) -> None:
    bucket = "memory://way"
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
    store = fsspec.filesystem("memory")
    assert Metrics.model_validate_json(store.cat("/way/report/metrics")).id_accuracy > 0.8
    assert b"</html>" in store.cat("/way/report/report")
    assert len({name.split("/")[4] for name in store.find("/way/checkpoints")}) == 2  # the last two are kept
    assert load_detector(f"{bucket}/detector").classes == ("class0", "class1", "class2")
