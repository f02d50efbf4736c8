"""Tracking against a real SQLite store: the tree of runs; nothing it does hurts a stage or tells a secret."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from mlflow import MlflowClient

from mofe.runners import local
from mofe.tracking import journal

STAGE = """
from mofe.tracking import journal
with journal.stage_run({stage!r}, {{"rate": 0.1, "uri": "s3://user:canary@host/x"}}, label="a") as run:
    run.metrics({{"loss": 1.5}}, step=1)
    run.metrics({{"loss": 0.5}}, step=2)
    run.file({file!r})
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "report").write_text("<html>")
    return uri


def stage(name: str, tmp_path: Path) -> list[str]:
    return [sys.executable, "-c", STAGE.format(stage=name, file=str(tmp_path / "report"))]


@pytest.mark.integration
def test_one_parent_and_a_run_a_stage_even_from_two_processes_at_once(store: str, tmp_path: Path) -> None:
    both = [subprocess.Popen(stage(name, tmp_path)) for name in ("extract", "evaluate")]
    assert [process.wait() for process in both] == [0, 0]
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name("mofe").experiment_id
    runs = client.search_runs([experiment])
    (parent,) = [run for run in runs if "mofe.pipeline_run" in run.data.tags]
    nested = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert set(nested) == {"extract a", "evaluate a"}
    assert {run.info.status for run in runs} == {"FINISHED"}
    extract = nested["extract a"]
    assert [(m.step, m.value) for m in client.get_metric_history(extract.info.run_id, "loss")] == [(1, 1.5), (2, 0.5)]
    assert extract.data.params == {"rate": "0.1", "uri": "s3://host/x"}
    assert [a.path for a in client.list_artifacts(extract.info.run_id)] == ["report.html"]
    assert (tmp_path / "mlartifacts" / extract.info.run_id / "artifacts" / "report.html").is_file()
    assert not list((tmp_path / "elsewhere").iterdir())
    assert b"canary" not in (tmp_path / "mlflow.db").read_bytes()


@pytest.mark.integration
def test_events_left_in_a_folder_are_carried_by_one_process(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events"
    events.mkdir()
    monkeypatch.setenv("MOFE_TRACKING_FOLDER", str(events))
    monkeypatch.setenv("MOFE_TRACKING_CARRIED", "1")
    code = "import sys; from mofe import tracking; exec(sys.argv[1]); print('mlflow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, stage("extract", tmp_path)[2]], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"  # the stage itself did not pay for MLflow
    with pytest.raises(ValueError, match="boom"), journal.stage_run("finetune", {}):
        raise ValueError("boom")
    (events / "end").touch()
    subprocess.run([sys.executable, "-m", "mofe.tracking.mlflow_store", str(events), str(os.getpid())], check=True)
    client = MlflowClient(store)
    runs = client.search_runs([client.get_experiment_by_name("mofe").experiment_id])
    status = {run.info.run_name: run.info.status for run in runs}
    assert status == {"run-1": "FAILED", "extract a": "FINISHED", "finetune": "FAILED"}
    assert len(list(events.glob("*.jsonl.sent"))) == 2


def test_without_an_address_nothing_is_tracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with journal.stage_run("extract", {}) as run:
        run.metrics({"loss": 1.0})


def test_a_dead_server_warns_once_without_secrets_and_the_stage_goes_on(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:canary@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MOFE_TRACKING_FOLDER", "memory://journals")
    with caplog.at_level(logging.WARNING), journal.stage_run("extract", {}) as run:
        run.metrics({"loss": 1.0})
        reached = True
    assert reached
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert warnings[0].startswith("tracking in MLflow at http://127.0.0.1:9 failed: ")
    assert warnings[1] == "3 events for MLflow are kept; send them by: mofe report --sync memory://journals"
    assert "canary" not in str(warnings)
    (kept,) = fsspec.filesystem("memory").find("/journals")
    assert "canary" not in fsspec.filesystem("memory").cat_file(kept).decode()


@pytest.mark.integration
def test_a_run_that_the_platform_made_is_joined_and_left_open(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(store)
    given = client.create_run(client.create_experiment("platform")).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    subprocess.run(stage("extract", tmp_path), check=True)
    run = client.get_run(given)
    assert run.info.status == "RUNNING"
    assert run.data.metrics == {"loss": 0.5}
    assert run.data.params["mofe.extract.rate"] == "0.1"
    assert client.get_experiment_by_name("mofe") is None


@pytest.mark.integration
def test_the_carrier_of_events_ends_where_who_started_it_is_gone(store: str, tmp_path: Path) -> None:
    events = tmp_path / "events"
    events.mkdir()
    command = [sys.executable, "-m", "mofe.tracking.mlflow_store", str(events), "1"]  # a parent that it does not have
    subprocess.run(command, check=True, timeout=300)


def test_a_journal_that_cannot_be_removed_warns(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOFE_TRACKING_FOLDER", str(tmp_path / "journals"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING), journal.stage_run("extract", {}) as run:
        assert run.journal is not None
        run.journal.unlink()
        run.journal.mkdir()  # not even root removes it as a file
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert "was sent, but cannot be removed" in caplog.text


def test_a_folder_for_journals_that_cannot_be_opened_warns(
    store: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MOFE_TRACKING_FOLDER", "s3://user:canary@bucket/x")
    with caplog.at_level(logging.WARNING), journal.stage_run("extract", {}) as run:
        run.metrics({"loss": 1.0})
    assert "nothing is tracked in MLflow" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.integration
def test_a_copied_database_leaves_the_files_of_the_original_alone(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subprocess.run(stage("extract", tmp_path), check=True)
    before = sorted((tmp_path / "mlartifacts").rglob("*"))
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "copy")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/copy/mlflow.db")
    for _ in range(2):
        subprocess.run(stage("evaluate", tmp_path), check=True)
    assert sorted((tmp_path / "mlartifacts").rglob("*")) == before
    assert len([*(tmp_path / "copy" / "mlartifacts").rglob("report.html")]) == 3, "of two stages, and of their run"
    client = MlflowClient(f"sqlite:///{tmp_path}/copy/mlflow.db")
    assert client.get_experiment_by_name(f"mofe in {tmp_path}/copy") is not None
    assert len(client.search_experiments(filter_string="name LIKE 'mofe%'")) == 2


@pytest.mark.integration
def test_the_database_lies_in_the_work_folder_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "what now? #2 100%41 *[x]"
    logs = work / "logs" / "run"
    logs.mkdir(parents=True)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in local._environment(work, logs, "p").items():
        monkeypatch.setenv(name, value)
    console = SimpleNamespace(after_stage=lambda: None)
    with local._track(work, logs, console):  # type: ignore[arg-type]
        with journal.stage_run("extract", {"rate": 0.1}) as run:
            run.metrics({"loss": 1.0})
        console.after_stage()
    assert (work / "mlflow.db").stat().st_size > 0
    assert [place.name for place in tmp_path.iterdir()] == [work.name]
