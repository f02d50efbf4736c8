"""Stages against a real MLflow server: what it shows afterwards, and what becomes of it when the server dies."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from helpers import striped
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image
from servers import Server, free_ports

from mofe import load_detector
from mofe.cli.main import main
from mofe.inference.detector import Detector, Scores
from mofe.stages.index import index
from mofe.tracking import journal

pytestmark = pytest.mark.integration


def runs_by_name() -> dict[str, Run]:
    client = MlflowClient()
    experiment = client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"])
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def curve(run: Run) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in MlflowClient().get_metric_history(run.info.run_id, "loss")]


def a_stage(name: str, file: Path, between: Any = lambda: None) -> None:
    file.write_text("<html>")
    with journal.stage_run(name, {"rate": 0.1}) as run:
        run.metrics({"loss": 1.5}, step=1)
        between()
        run.metrics({"loss": 0.5}, step=2)
        run.file(str(file))


def report(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr("sys.argv", ["mofe", "report", "--sync", str(folder)])
    main()


def complete(run: Run) -> bool:
    """Whether the run holds what :func:`a_stage` did, once."""
    artifacts = [a.path for a in MlflowClient().list_artifacts(run.info.run_id)]
    return (
        run.info.status == "FINISHED"
        and run.data.params == {"rate": "0.1"}
        and curve(run) == [(1, 1.5), (2, 0.5)]
        and artifacts == ["report.html"]
    )


def test_the_tree_of_a_run_and_a_model_that_predicts(
    mlflow_server: Server, detector: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"of {tmp_path}")  # not that of the fixture's stages
    again = str(tmp_path / "again")
    index(detector.images, detector.features, detector.model, again, knn_k=3, num_workers=0, precision="fp32")
    a_stage("evaluate", tmp_path / "report")
    assert not (tmp_path / "journals").exists()
    runs = runs_by_name()
    assert set(runs) == {"run-1", "index", "evaluate"}
    parent = runs["run-1"].info.run_id
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in ("index", "evaluate")} == {parent}
    assert complete(runs["evaluate"])
    assert [a.path for a in MlflowClient().list_artifacts(parent)] == ["report.html"]
    assert runs["index"].data.params == {"knn_k": "3", "bank": "expert", "compare": "True"}

    (model,) = MlflowClient().search_logged_models([runs["index"].info.experiment_id])
    assert model.source_run_id == runs["index"].info.run_id
    images = [striped(label, np.random.default_rng(label)) for label in (0, 1, 2, 3, 7)]
    known = load_detector(again)
    expected = known.score([Image.open(io.BytesIO(image)) for image in images])
    Path(again).rename(tmp_path / "elsewhere")  # MLflow has a copy of its own

    loaded = mlflow.pyfunc.load_model(model.model_uri)
    check(loaded.predict(pd.DataFrame({"image": images})), expected, known)
    rows = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(image).decode()] for image in images]}}
    check(pd.DataFrame(served(model.model_uri, rows)["predictions"]), expected, known)


def check(answer: pd.DataFrame, expected: Scores, known: Detector) -> None:
    assert list(answer["class"]) == [known.classes[c] for c in expected.predicted_B]
    assert list(answer["expert"]) == list(expected.expert_B)
    for name, values_B in expected.values.items():
        np.testing.assert_allclose(answer[name].astype(np.float32), values_B, rtol=1e-4)
    assert list(answer["known"]) == list(expected.values["knn"] >= known.thresholds["knn"])
    assert len(set(answer["known"])) == 2


def served(model: str, rows: dict[str, Any]) -> dict[str, Any]:
    """What ``mlflow models serve`` answers."""
    port = str(free_ports(1)[0])
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "-p", port, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # it looks for uvicorn there
    environment = {**os.environ, "PATH": path}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(rows).encode(), {"Content-Type": "application/json"}
        )
        try:
            for _ in range(240):
                assert process.poll() is None
                try:
                    with urllib.request.urlopen(request) as answer:
                        return dict(json.load(answer))
                except (ConnectionError, urllib.error.URLError):
                    time.sleep(0.5)
            raise TimeoutError
        finally:
            process.terminate()


def test_a_run_of_the_platform_is_joined(
    mlflow_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    given = client.create_run(client.create_experiment(f"of the platform {tmp_path}")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    a_stage("finetune", tmp_path / "report")
    run = client.get_run(given)
    assert run.info.status == "RUNNING"
    assert (run.data.params, curve(run)) == ({"mofe.finetune.rate": "0.1"}, [(1, 1.5), (2, 0.5)])
    assert client.get_experiment_by_name(os.environ["MLFLOW_EXPERIMENT_NAME"]) is None


def test_a_server_that_is_down_gets_it_all_later_once(
    mlflow_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    mlflow_server.kill()
    with caplog.at_level(logging.WARNING, "mofe"):
        a_stage("extract", tmp_path / "report")
    assert caplog.records[-1].getMessage() == (
        f"5 events for MLflow are kept; send them by: mofe report --sync {tmp_path}/journals"
    )
    (tmp_path / "report").unlink()  # with the disk of its pod
    with pytest.raises(
        SystemExit, match=f"^mofe: MLflow at {os.environ['MLFLOW_TRACKING_URI']} does not take the events in"
    ):
        report(monkeypatch, tmp_path)
    mlflow_server.start()
    (journal,) = (tmp_path / "journals").glob("*.jsonl")
    content = journal.read_bytes()
    report(monkeypatch, tmp_path)
    assert complete(runs_by_name()["extract"])
    report(monkeypatch, tmp_path)
    journal.write_bytes(content)  # as if the first time had been cut off before it could be noted
    report(monkeypatch, tmp_path)
    assert [line.split(" to ")[0] for line in capsys.readouterr().out.splitlines()] == [
        "sent 5 events of 1 stages", "sent 0 events of 0 stages", "sent 5 events of 1 stages",
    ]  # fmt: skip
    assert complete(runs_by_name()["extract"])
    assert len(runs_by_name()) == 2


def test_a_server_that_dies_half_way_and_comes_back_gets_the_rest_at_the_end(
    mlflow_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def die_and_come_back() -> None:
        mlflow_server.kill()
        tracking_now.metrics({"loss": 0.75}, step=3)
        assert len(list((tmp_path / "journals").glob("*.jsonl"))) == 1  # safe from now on
        mlflow_server.start()

    with caplog.at_level(logging.WARNING, "mofe"), journal.stage_run("finetune", {}) as tracking_now:
        tracking_now.metrics({"loss": 1.5}, step=1)
        die_and_come_back()
        tracking_now.metrics({"loss": 0.5}, step=4)
    assert curve(runs_by_name()["finetune"]) == [(1, 1.5), (3, 0.75), (4, 0.5)]
    assert runs_by_name()["finetune"].info.status == "FINISHED"
    assert not list((tmp_path / "journals").glob("*"))
    first, last = (record.getMessage() for record in caplog.records)
    assert first.startswith("tracking in MLflow at ")
    assert last == "tracking in MLflow works again: everything has been sent"
