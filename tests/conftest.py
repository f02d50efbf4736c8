"""Fixtures that many tests need."""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers import TINY, make_partition, striped
from servers import Server, mlflow, swift
from timm.models.vision_transformer import VisionTransformer

from mofe import storage
from mofe.artifacts import ImageSet, write_image_shards
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.index import index

torch.set_num_threads(1)  # models this small only wait for their threads


@pytest.fixture
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., str]:
    """Writes an image set of striped images; returns its path."""

    def make(
        name: str = "train", role: str = "train", classes: Sequence[int] = (0, 1, 2, 3), per_class: int = 12
    ) -> str:
        rng = np.random.default_rng(sum(name.encode()))
        names = tuple(f"class{c}" for c in classes)
        uri = str(tmp_path / name)
        with storage.staged(uri) as folder:
            with write_image_shards(folder, names, rows_per_group=8, groups_per_shard=2) as writer:
                for i in rng.permutation(len(classes) * per_class).tolist():
                    label = i % len(classes)
                    writer.add(striped(classes[label], rng), f"{name}/{i}.png", label)
            ImageSet(
                name=name,
                role=role,  # type: ignore[arg-type]
                source="made by a test",
                digest=name,
                classes=names,
                synsets=(None,) * len(names),
                counts=tuple(writer.counts),
                num_images=writer.num_images,
                num_rejected=0,
                rejected=(),
            ).write(folder)
        return uri

    return make


@pytest.fixture
def trained(make_images: Callable[..., str], tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Extracts, partitions by hand, fine-tunes; ``trained(epochs=2)``, ``trained("again")``. Paths of all artifacts."""
    images = make_images(per_class=20)
    options = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random", "num_workers": 0}
    extract(images, str(tmp_path / "features"), **options)  # type: ignore[arg-type]

    def train(name: str = "run", clusters: Sequence[int] = (0, 1, 0, 1), **parameters: Any) -> SimpleNamespace:
        with storage.staged(str(tmp_path / "partition")) as folder:
            make_partition(clusters).write(folder)
        paths = SimpleNamespace(
            images=images, features=str(tmp_path / "features"), partition=str(tmp_path / "partition"),
            model=str(tmp_path / name / "model"), history=str(tmp_path / name / "history"),
            detector=str(tmp_path / name / "detector"),
        )  # fmt: skip
        small = {
            "epochs": 2, "probe_epochs": 20, "probe_learning_rate": 0.01, "batch_size": 16, "micro_batch_size": 16,
            "learning_rate": 1e-3, "warmup_epochs": 0.5, "augmentation": "none", "num_workers": 0,
        }  # fmt: skip
        finetune(paths.images, paths.features, paths.partition, paths.model, paths.history, **{**small, **parameters})  # type: ignore[arg-type]
        return paths

    return train


@pytest.fixture
def detector(trained: Callable[..., SimpleNamespace]) -> SimpleNamespace:
    """Paths of a small trained detector and what it was made from."""
    paths = trained(epochs=6)
    index(paths.images, paths.model, paths.detector, knn_k=3, num_workers=0, precision="fp32")
    return paths


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | None]:
    """A server to talk to and to kill; None where AWS_ENDPOINT_URL names another."""
    if "AWS_ENDPOINT_URL" in os.environ:
        yield None
        return
    server = swift(tmp_path_factory.mktemp("swift"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mortal(s3_server: Server | None) -> Server:
    """The server, where it may be killed."""
    if s3_server is None:
        pytest.skip("the server that AWS_ENDPOINT_URL names is not the tests' to kill")
    return s3_server


@pytest.fixture
def s3_bucket(s3_server: Server | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket; the environment says how to reach it."""
    s3fs = pytest.importorskip("s3fs")
    for name, value in (s3_server.environment if s3_server else {}).items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    store = s3fs.S3FileSystem()
    name = f"mofe-test-{uuid.uuid4().hex[:12]}"
    store.mkdir(name)
    yield f"s3://{name}"
    store.invalidate_cache()
    store.rm(name, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def mlflow_process(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """MLflow, with its artifacts in S3 where that can be had."""
    folder = tmp_path_factory.mktemp("mlflow")
    artifacts, s3 = str(folder / "artifacts"), {}
    try:
        server = request.getfixturevalue("s3_server")
        s3 = server.environment if server else {}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in s3.items():
                patch.setenv(name, value)
            store = pytest.importorskip("s3fs").S3FileSystem(skip_instance_cache=True)
            artifacts = f"s3://mofe-test-{uuid.uuid4().hex[:12]}"
            store.mkdir(artifacts)
    except pytest.skip.Exception:
        pass
    server = mlflow(folder, artifacts, s3)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def mlflow_server(mlflow_process: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running MLflow, which stages find and which has heard of none of them; it may be killed."""
    for name, value in mlflow_process.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", uuid.uuid4().hex)
    monkeypatch.setenv("MOFE_TRACKING_FOLDER", str(tmp_path / "journals"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield mlflow_process
    if not mlflow_process.processes:
        mlflow_process.start()
