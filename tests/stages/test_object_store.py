"""Every stage from an object store to an object store: paths and URIs are the same to all of them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from threading import Timer
from typing import Any

import fsspec
import pytest
import torch
from helpers import TINY
from safetensors.torch import load, load_file
from servers import Server

from mofe import load_detector
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.metrics import Metrics
from mofe.data.images import stored_form
from mofe.errors import MofeError
from mofe.stages.evaluate import evaluate
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.fingerprint import fingerprint
from mofe.stages.index import index
from mofe.stages.partition import partition
from mofe.stages.prepare import prepare
from mofe.stages.score import score
from mofe.storage import writing

pytestmark = pytest.mark.integration


@pytest.fixture(params=["memory", "s3"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty place."""
    if request.param == "memory":
        yield "memory://way"
        fsspec.filesystem("memory").rm("/way", recursive=True)
    else:
        yield request.getfixturevalue("s3_bucket") + "/way"


def test_the_whole_way(make_images: Callable[..., str], bucket: str) -> None:
    store, root = fsspec.core.url_to_fs(bucket)
    for name, role, classes in (("train", "train", (0, 1, 2)), ("id-test", "test", (0, 1, 2)), ("odd", "ood", (5, 6))):
        local = make_images(name, role, classes, per_class=24)
        store.put(local, f"{root}/source-{name}", recursive=True)
        source = f"{bucket}/source-{name}/*.parquet"
        digest = fingerprint(source, source, [{"dataset": "odd", "uri": source}]).train
        prepare(source, f"{bucket}/{name}", name=name, role=role, digest=digest)  # type: ignore[arg-type]
    options = {"num_workers": 2 if bucket.startswith("s3") else 0, "precision": "fp32"}  # memory is of one process
    backbone = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random"}
    extract(f"{bucket}/train", f"{bucket}/features", **backbone, **options)  # type: ignore[arg-type]
    partition(f"{bucket}/features", f"{bucket}/partition", num_experts=2, strategy="kmeans++")
    finetune(
        f"{bucket}/train", f"{bucket}/features", f"{bucket}/partition", f"{bucket}/model", f"{bucket}/history",
        epochs=12, warmup_epochs=1.0, probe_epochs=40, probe_learning_rate=0.01, learning_rate=1e-3,
        batch_size=12, micro_batch_size=12, augmentation="none",
        checkpoints=f"{bucket}/checkpoints", **options,
    )  # type: ignore[arg-type]  # fmt: skip
    index(f"{bucket}/train", f"{bucket}/features", f"{bucket}/model", f"{bucket}/detector", **options)  # type: ignore[arg-type]
    for name in ("id-test", "odd"):
        score(f"{bucket}/{name}", f"{bucket}/detector", f"{bucket}/scores-{name}", **options)  # type: ignore[arg-type]
    outputs = {name: f"{bucket}/report/{name}" for name in ("metrics", "roc", "report")}
    scores = [f"{bucket}/scores-id-test", f"{bucket}/scores-odd"]
    evaluate(scores, f"{bucket}/partition", f"{bucket}/history", **outputs)
    store.invalidate_cache()
    assert Metrics.read_file(f"{bucket}/report/metrics").id_accuracy > 0.8
    assert b"</html>" in store.cat(f"{root}/report/report")
    kept = {name.split("/checkpoints/")[1].split("/")[1] for name in store.find(f"{root}/checkpoints")}
    assert sorted(kept) == ["handed-on", "step-00012-0000000", "step-00013-0000000"]
    assert not [name for name in store.find(root) if "partial" in name]
    assert load_detector(f"{bucket}/detector").classes == ("class0", "class1", "class2")


def test_training_that_is_killed_goes_on_from_its_checkpoint(trained: Callable[..., Any], s3_bucket: str) -> None:
    paths = trained("undisturbed", epochs=4)
    inputs = [paths.images, paths.features, paths.partition, f"{s3_bucket}/model", f"{s3_bucket}/history"]
    options = {
        "epochs": 4, "probe_epochs": 20, "probe_learning_rate": 0.01, "batch_size": 16, "micro_batch_size": 16,
        "learning_rate": 1e-3, "warmup_epochs": 0.5, "augmentation": "none", "num_workers": 0,
        "checkpoints": f"{s3_bucket}/checkpoints",
    }  # fmt: skip
    code = f"from mofe.stages.finetune import finetune; finetune(*{inputs!r}, **{options!r})"
    command = [sys.executable, "-c", code]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    store = fsspec.filesystem("s3")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread) as process:
        while process.poll() is None:  # until an epoch is in the store
            time.sleep(0.2)
            store.invalidate_cache()
            if len([n for n in store.find(f"{s3_bucket}/checkpoints") if n.endswith("/checkpoint.json")]) > 1:
                break
        process.kill()
    assert not store.exists(f"{s3_bucket}/model")
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
    assert "resuming in epoch" in done.stdout
    store.invalidate_cache()
    resumed = load(store.cat_file(f"{s3_bucket}/model/model.safetensors"))
    undisturbed = load_file(f"{paths.model}/model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in undisturbed.items())


def upload(images: ImageShards, bucket: str) -> str:
    """The images as class folders, an object each."""
    objects = {}
    for position in range(len(images)):
        content, path, label = images.image(position)
        objects[f"{bucket}/source/class{label}/{path.replace('/', '-')}"] = content
    fsspec.filesystem("s3").pipe(objects)
    return f"{bucket}/source"


def test_a_server_that_is_killed_and_comes_back_is_waited_for(
    make_images: Callable[..., str], s3_bucket: str, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = upload(ImageShards(make_images(per_class=10)), s3_bucket)
    back = Timer(2.0, mortal.start)
    kill_while_reading(monkeypatch, mortal, then=back.start)
    prepare(source, f"{s3_bucket}/images", name="train", role="train", digest="")
    back.join()
    written = ImageShards(f"{s3_bucket}/images").info
    assert (written.counts, written.num_rejected) == ((10, 10, 10, 10), 0)


def test_a_server_that_stays_away_ends_the_stage_and_no_image_is_blamed(
    make_images: Callable[..., str], s3_bucket: str, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = upload(ImageShards(make_images(per_class=10)), s3_bucket)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    kill_while_reading(monkeypatch, mortal)
    try:
        with pytest.raises(
            MofeError, match=rf"the image at {source}/.*; gave up after \d+ s and 2 attempts of each request"
        ):
            prepare(source, f"{s3_bucket}/images", name="a", role="train", digest="", max_rejected=1.0)
    finally:
        if not mortal.processes:
            mortal.start()
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    assert [name.rpartition("/")[2] for name in store.find(f"{s3_bucket}/images")] == [writing.UNFINISHED]


def kill_while_reading(
    monkeypatch: pytest.MonkeyPatch, server: Server, then: Callable[[], None] = lambda: None
) -> None:
    """The server dies when prepare has read ten images; then something else happens."""
    seen = 0

    def counted(content: bytes) -> bytes:
        nonlocal seen
        seen += 1
        if seen == 10:
            server.kill()
            then()
        return stored_form(content)

    monkeypatch.setattr("mofe.stages.prepare.stored_form", counted)
