"""Fixtures that many tests need."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from helpers import TINY, artifact_paths, train_small, write_images
from servers import Server, mlflow, swift
from timm.models.vision_transformer import VisionTransformer

from mofe.stages.extract import extract
from mofe.stages.index import index
from mofe.training import termination

torch.set_num_threads(1)  # models this small only wait for their threads
SERVICES = {"s3_server", "mlflow_process", "kubeflow"}
"""Fixtures that start a server."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What asks for a server is a test of integration, too."""
    for item in items:
        if SERVICES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def backbone() -> VisionTransformer:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY).eval()


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., str]:
    """Writes an image set of striped images; returns its path."""
    return partial(write_images, tmp_path)


@pytest.fixture
def groups_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are cut, and score asks, by groups of eight batches: so few images make several."""
    for module in ("mofe.artifacts.parts", "mofe.stages.score"):
        monkeypatch.setattr(f"{module}.TOGETHER", 8)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with training images and their features, made once: copy what you change."""
    folder = tmp_path_factory.mktemp("prepared")
    write_images(folder, per_class=20)
    options = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random", "num_workers": 0}
    extract(str(folder / "train"), str(folder / "features"), **options)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def trained(prepared: Path, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """Partitions by hand and fine-tunes; ``trained(epochs=2)``, ``trained("again")``. Paths of all artifacts."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    return partial(train_small, tmp_path)


@pytest.fixture
def told_to_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[None]]:
    """``with told_to_end(3):`` a training is sent SIGTERM in its third step, and ends after it."""

    @contextmanager
    def told(step: int) -> Iterator[None]:
        answers = chain([False] * (step - 1), repeat(True))
        with monkeypatch.context() as patched, pytest.raises(SystemExit) as end:
            patched.setattr(termination, "deferred", lambda: nullcontext(lambda: next(answers)))
            yield
        assert end.value.code == termination.STATUS

    return told


@pytest.fixture(scope="session")
def _detector(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    paths = train_small(folder, epochs=6)
    index(paths.images, paths.features, paths.model, paths.detector, knn_k=3, num_workers=0, precision="fp32")
    return folder


@pytest.fixture
def detector(_detector: Path, tmp_path: Path) -> SimpleNamespace:
    """Paths of a small trained detector and what it was made from: a copy, trained once."""
    shutil.copytree(_detector, tmp_path, dirs_exist_ok=True)
    return artifact_paths(tmp_path)


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
    store.call_s3("create_bucket", Bucket=name)
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
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # a server on a busy machine is slow, not gone
    yield mlflow_process
    if not mlflow_process.processes:
        mlflow_process.start()
