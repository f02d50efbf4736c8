"""The whole pipeline for real, as ``make demo`` runs it but smaller; and on real photographs where they are at hand."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from test_secrets import PLANTED, leaks

from mofe import load_detector
from mofe.artifacts.metrics import Metrics

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared" / "data"


def mofe(*arguments: str) -> str:
    command = [sys.executable, "-m", "mofe", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **PLANTED})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_digits(tmp_path: Path) -> None:
    mofe("data", "digits", "--to", str(tmp_path / "digits"))
    near = {"dataset": "digits-8-9", "uri": f"{tmp_path}/digits/near-ood"}
    settings = [f"train_data={tmp_path}/digits/train", f"test_data={tmp_path}/digits/test", f"ood_data=[{near}]"]
    run = ["run", "-f", "examples/digits.yaml", "--work", str(tmp_path / "run"), "--set", *settings]
    printed = mofe(*run, "epochs=2", "probe_epochs=10", "train_images_per_class=60", "inference_batch_size=8")

    metrics = Metrics.read_file(tmp_path / "run" / "metrics.json")
    knn = next(result for result in metrics.results if result.score == "knn")
    assert metrics.id_accuracy > 0.85
    assert metrics.router_accuracy > 0.85
    assert knn.auroc > 0.85
    assert f"{100 * knn.auroc:.2f}" in printed
    assert f"{100 * knn.auroc:.2f}" in (tmp_path / "run" / "report.html").read_text()
    assert "digits-8-9" in printed

    detector = load_detector(str(tmp_path / "run" / "detector"))
    assert len(detector.classes) == 8
    assert set(detector.thresholds) == {"knn", "msp", "max_logit", "energy", *detector.info.baselines}
    assert {"pretrained.knn", "tuned.vim", "expert.mahalanobis"} < {result.score for result in metrics.results}

    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("mofe").experiment_id])
    (parent,) = [r for r in runs if "mofe.pipeline_run" in r.data.tags]
    names = sorted(r.info.run_name for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id)
    assert names == [
        "evaluate", "extract", "finetune", "index", "partition", "prepare digits-8-9", "prepare id-test",
        "prepare train", "score digits-8-9", "score id-test",
    ]  # fmt: skip
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["knn.digits-8-9.auroc"] == pytest.approx(knn.auroc)
    assert {a.path for a in client.list_artifacts(parent.info.run_id)} == {"metrics.json", "report.html"}
    (model,) = client.search_logged_models([parent.info.experiment_id])
    assert model.artifact_location.startswith((tmp_path / "run" / "mlartifacts").as_uri())
    tuned = next(r for r in runs if r.info.run_name == "finetune")
    assert [m.step for m in client.get_metric_history(tuned.info.run_id, "validation_accuracy")] == [0, 1, 2]

    assert leaks(tmp_path) == []

    params = tmp_path / "params.yaml"  # as the report gives them
    params.write_text(yaml.safe_dump(metrics.parameters))
    again = mofe(
        "run", "-f", str(params), "--work", str(tmp_path / "run"), "--set", "num_workers=2", "inference_batch_size=8"
    )
    assert again.count("cached") == 12

    whole = (tmp_path / "run" / "metrics.json").read_bytes()
    split = mofe(
        "run",
        "-f",
        str(params),
        "--pipeline",
        "sharded",
        "--work",
        str(tmp_path / "run"),
        "--set",
        "shards=2",
        "inference_batch_size=8",
    )
    assert split.count("shard 1") == 3, "of extract, and of score for each set"
    assert (tmp_path / "run" / "metrics.json").read_bytes() == whole, "with the seals of all that it was made from"


@pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="the Tiny-ImageNet files are not here")
def test_photographs(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text((ROOT / "examples" / "tiny-imagenet.yaml").read_text().replace(" data/", f" {PHOTOGRAPHS}/"))
    small = ["train_images_per_class=6", "evaluation_images_per_class=3", "epochs=1", "probe_epochs=5", "compare=false"]
    mofe("run", "-f", str(params), "--work", str(tmp_path), "--set", *small)
    metrics = Metrics.read_file(tmp_path / "metrics.json")
    assert {(r.ood, r.score) for r in metrics.results} >= {("near-ood", "knn"), ("textures", "energy")}
    assert metrics.id_accuracy > 0.03  # of 100 classes, from six small images each
    assert metrics.router_accuracy > 0.35  # of five experts
