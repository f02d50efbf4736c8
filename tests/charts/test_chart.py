"""The Helm chart: what it renders, against Kubernetes' own schemas; what it must never render."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from pipelines.placement import SECRET_KEYS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "mofe"
KUBERNETES = "1.34"

pytestmark = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "registry": "registry.example/team",
        "imagePullSecrets": ["pull"],
        "credentials": {"create": True, "values": {"AWS_SECRET_ACCESS_KEY": "canary-secret", "AWS_ACCESS_KEY_ID": "a"}},
        "mlflow": {
            "database": {"secretName": "database"},
            "artifacts": "s3://bucket/mlflow",
            "volume": {"size": "20Gi", "storageClassName": "fast"},
        },
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
        "networkPolicy": {"enabled": True},
    },
    "native": {"pipelines": {"kubernetesNative": True}, "registry": "registry.example/team"},
    "pipelines-only": {"mlflow": {"enabled": False}},
    "nothing": {
        "mlflow": {"enabled": False}, "pipelines": {"register": False}, "serviceAccount": {"create": False},
    },
}  # fmt: skip


def helm(*arguments: str, values: dict[str, Any], fails: bool = False) -> str:
    command = ["helm", *arguments, "--values", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    return done.stderr if fails else done.stdout


def rendered(name: str) -> list[dict[str, Any]]:
    text = helm("template", "release", str(CHART), "--namespace", "ml", values=VALUES[name])
    return [document for document in yaml.safe_load_all(text) if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


@pytest.mark.parametrize("name", VALUES)
def test_lint_and_schemas(name: str) -> None:
    helm("lint", "--strict", str(CHART), values=VALUES[name])
    for document in rendered(name):
        if not document["apiVersion"].startswith("pipelines.kubeflow.org"):  # a custom resource has no schema there
            validate(document, KUBERNETES, strict=True)


def test_what_each_value_set_renders() -> None:
    kinds = {name: sorted(d["kind"] for d in rendered(name)) for name in VALUES}
    server = ["Deployment", "PersistentVolumeClaim", "Service"]
    assert kinds["default"] == sorted([*server, "Job", "ServiceAccount"])
    assert kinds["everything"] == sorted([*server, "Job", "NetworkPolicy", "Secret", "ServiceAccount"])
    assert kinds["native"] == sorted(
        [*server, "Pipeline", "Pipeline", "PipelineVersion", "PipelineVersion", "ServiceAccount"]
    )
    assert kinds["pipelines-only"] == ["Job", "ServiceAccount"]
    assert kinds["nothing"] == []


@pytest.mark.parametrize("name", ["default", "everything"])
def test_nothing_runs_as_root_or_writes_to_its_image(name: str) -> None:
    for document in rendered(name):
        pod = document.get("spec", {}).get("template", {}).get("spec")
        if pod:
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["automountServiceAccountToken"] is False
            for container in pod["containers"]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["requests"]
                assert container["resources"]["limits"]["memory"]
                assert not container["image"].endswith(":latest")


def test_a_secret_value_is_in_the_secret_alone() -> None:
    documents = rendered("everything")
    (secret,) = of_kind(documents, "Secret")
    assert secret["stringData"]["AWS_SECRET_ACCESS_KEY"] == "canary-secret"
    assert secret["stringData"]["MLFLOW_TRACKING_URI"] == "http://release-mlflow.ml.svc:5000"
    assert set(secret["stringData"]) <= set(SECRET_KEYS), "keys that the stages take"
    assert "canary" not in json.dumps([d for d in documents if d is not secret])


def numbers(value: Any) -> Any:
    """Helm writes 1e-06, which is a number to Kubernetes and a text to PyYAML."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+e-\d+", value) else value


def test_native_versions_are_the_compiled_pipelines() -> None:
    documents = rendered("native")
    for name, pipeline in (("mofe", "mofe"), ("tables", "mofe-tables")):
        compiled, platform = yaml.safe_load_all(
            (ROOT / "pipelines" / f"{name}.yaml").read_text().replace("ghcr.io/mofe/", "registry.example/team/")
        )
        (version,) = [d for d in of_kind(documents, "PipelineVersion") if d["spec"]["pipelineName"] == pipeline]
        assert numbers(version["spec"]["pipelineSpec"]) == compiled
        assert version["spec"]["platformSpec"] == platform
        assert version["metadata"]["name"].startswith(f"{pipeline}-0-1-0-")
        assert len(version["metadata"]["name"]) <= 63


def test_the_chart_carries_the_compiled_pipelines() -> None:
    for file in (ROOT / "pipelines").glob("*.yaml"):
        assert (CHART / "files" / file.name).read_bytes() == file.read_bytes(), "stale: run `make compile` and commit"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"registry": "registry.example/"}, "registry"),
        ({"mlflow": {"tag": "latest"}}, "tag"),
        ({"mlflow": {"servise": {}}}, "servise"),
        ({"pipelines": {"host": "ml-pipeline:8888"}}, "host"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    assert message in helm("template", "release", str(CHART), values=values, fails=True)
