"""Secrets in the environment reach nothing that a run leaves: logs, artifacts, MLflow, reports, messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import striped

VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY",
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "KFP_TOKEN",
)  # fmt: skip
"""Not MLFLOW_TRACKING_USERNAME: MLflow itself notes it as the author of what is logged."""
CANARY = "canary0123456789"
PLANTED = {name: f"{CANARY}-{name.lower()}" for name in VARIABLES}


def leaks(folder: Path) -> list[str]:
    """Files in which a canary has been found, as it is or in capitals."""
    return [str(f) for f in folder.rglob("*") if f.is_file() and CANARY.encode() in f.read_bytes().lower()]


def run(folder: Path, train: str, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = [f"train_data={train}", f"test_data={folder}/images", f"ood_data=[{{dataset: o, uri: {folder}/images}}]"]
    command = [sys.executable, "-m", "mofe", "run", "-f", str(folder / "p.yaml"), "--work", str(folder / "work")]
    planted = {**PLANTED, "AWS_EC2_METADATA_DISABLED": "true", **environment}
    return subprocess.run(
        [*command, "--set", *settings], capture_output=True, text=True, env={**os.environ, **planted}, timeout=120
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("train", "environment", "message"),
    [
        # the store does not answer: botocore's words
        ("s3://bucket/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}, "cannot access the"),
        # the address of MLflow holds a password, nobody listens there, and a stage fails as well
        (
            "{folder}/broken",
            {"MLFLOW_TRACKING_URI": f"http://user:{CANARY}@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"},
            "unreadable, more than max_rejected",
        ),
        (f"s3://user:{CANARY}@bucket/x", {}, "was given with a user name and password"),
    ],
    ids=["store", "mlflow", "uri"],
)
def test_a_run_that_fails(tmp_path: Path, train: str, environment: dict[str, str], message: str) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for name in ("images/a", "images/b", "broken/a", "broken/b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(striped(0, rng) if "broken" not in name else b"no image")
    (tmp_path / "p.yaml").write_text("{}")
    done = run(tmp_path, train.format(folder=tmp_path), **environment)
    assert done.returncode == 1
    assert message in done.stderr, done.stdout + done.stderr
    assert CANARY not in (done.stdout + done.stderr).lower()
    assert leaks(tmp_path) == []
    if message != "was given with a user name and password":
        assert list(tmp_path.glob("work/logs/*/*.log")), "there was something to search"


def test_the_search_can_find(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(b"\0" + CANARY.upper().encode())
    assert leaks(tmp_path) == [str(tmp_path / "deep/file")]
