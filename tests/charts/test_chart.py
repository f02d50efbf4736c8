"""The Helm chart: what it renders, against Kubernetes' own schemas; what it must never render."""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_validate import validate

from mofe.parameters.file import check_parameters, pipeline_parameters
from pipelines.placement import SECRET_KEYS

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "mofe"
KUBERNETES = "1.34"

pytestmark = [pytest.mark.integration, pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")]

VALUES: dict[str, dict[str, Any]] = {
    "default": {},
    "everything": {
        "registry": "registry.example/team",
        "imagePullSecrets": ["pull"],
        "credentials": {"create": True, "values": {"AWS_SECRET_ACCESS_KEY": "canary-secret", "AWS_ACCESS_KEY_ID": "a"}},
        "mlflow": {
            "database": {"secretName": "database"},
            "artifacts": "s3://bucket/mlflow",
            "hosts": ["mlflow.example"],
            "volume": {"size": "20Gi", "storageClassName": "fast"},
        },
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
        "networkPolicy": {"enabled": True},
        "pool": {
            "accelerator": "amd.com/gpu",
            "accelerators": 2,
            "trainAccelerators": 8,
            "nodeSelector": {"pool": "gpu"},
            "tolerations": [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "cpu": 16,
        },
        "recurring": {
            "enabled": True,
            "name": "weekly",
            "namespace": "team",
            "parameters": {
                "train_data": "s3://bucket/train",
                "test_data": "s3://bucket/test",
                "ood_data": [{"dataset": "dtd", "uri": "s3://bucket/dtd"}],
                "accelerators": 0,
            },
        },
        "trainer": {"enabled": True, "namespace": "team", "serviceAccount": "default-editor"},
    },
    "native": {
        "pipelines": {"kubernetesNative": True},
        "registry": "registry.example/team",
        "pool": {"trainAccelerators": 4, "nodeSelector": {"pool": "gpu"}},
        "credentials": {"secretName": "ours"},
    },
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


def test_every_value_is_documented_in_its_place() -> None:
    """By a comment above it that begins with ``# --``; what a pod requests, above ``resources``."""
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        key = re.match(r" *(\w+):", line)
        group = line.endswith(":") and key and key[1] != "resources"
        if key and not group and key[1] not in ("requests", "limits"):
            above = list(itertools.takewhile(lambda text: text.lstrip().startswith("#"), reversed(lines[:number])))
            assert above and above[-1].lstrip().startswith("# -- "), f"{key[1]} in line {number + 1} has no comment"


def test_what_each_value_set_renders() -> None:
    kinds = {name: sorted(d["kind"] for d in rendered(name)) for name in VALUES}
    server = ["Deployment", "PersistentVolumeClaim", "Service"]
    assert kinds["default"] == sorted([*server, "Job", "ServiceAccount"])
    assert kinds["everything"] == sorted(
        [*server, "ConfigMap", "Job", "Job", "Job", "NetworkPolicy", "Role", "RoleBinding", "Secret", "ServiceAccount"]
    )
    assert kinds["native"] == sorted([*server, *4 * ["Pipeline", "PipelineVersion"], "ServiceAccount"])
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


def test_mlflow_answers_to_the_names_it_is_asked_by_and_to_no_others() -> None:
    """MLflow compares the Host header with a list, by this very function, and answers 403 to the rest."""
    from mlflow.server.security_utils import is_allowed_host_header

    (deployment,) = [d for d in rendered("everything") if d["kind"] == "Deployment"]
    arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    (allowed,) = [a.removeprefix("--allowed-hosts=").split(",") for a in arguments if a.startswith("--allowed-hosts=")]
    service = "release-mlflow.ml.svc"
    for host in (f"{service}:5000", f"{service}.cluster.local:5000", service, "localhost:8080", "mlflow.example"):
        assert is_allowed_host_header(allowed, host), host
    for host in ("evil.example", f"{service}.evil.example:5000", "release-mlflow.other.svc:5000"):
        assert not is_allowed_host_header(allowed, host), host


def test_no_secret_is_in_a_config_map_or_an_argument() -> None:
    for name in VALUES:
        for document in rendered(name):
            if document["kind"] != "Secret":
                text = json.dumps(document)
                assert "canary" not in text, document["metadata"]["name"]
                assert not [key for key in SECRET_KEYS if f'"{key}": ' in text], "Secrets are named, never copied"


def arguments(name: str, job: str) -> list[str]:
    """What a Job of a value set calls mofe with."""
    (document,) = [d for d in of_kind(rendered(name), "Job") if d["metadata"]["name"] == f"release-{job}"]
    (container,) = document["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["mofe"]
    return list(container["args"])


def called(monkeypatch: pytest.MonkeyPatch, *command: str) -> dict[str, Any]:
    """What the command line makes of arguments, up to where it would ask Kubeflow."""
    import mofe.cli.main
    import mofe.runners.kubeflow

    seen: dict[str, Any] = {}
    for function in ("register", "schedule", "unschedule"):
        monkeypatch.setattr(
            mofe.runners.kubeflow,
            function,
            lambda kubeflow, *given, **named: seen.update(named, kubeflow=kubeflow, positional=given),
        )
    monkeypatch.setattr("sys.argv", ["mofe", *command])
    mofe.cli.main.main()
    return seen


def test_the_pool_becomes_the_registered_pipelines_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = called(monkeypatch, *arguments("everything", "register"))
    assert seen["kubeflow"].host == "http://ml-pipeline.kubeflow.svc:8888"
    assert seen["kubeflow"].registry == "registry.example/team"
    assert seen["positional"][1] == {
        "accelerator": "amd.com/gpu",
        "accelerators": "2",
        "train_accelerators": "8",
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "cpu": "16",
        "memory": "32Gi",
        "credentials": "mofe-credentials",
    }
    seen = called(monkeypatch, *arguments("default", "register"))
    known = pipeline_parameters(ROOT / "pipelines" / "compiled" / "mofe.yaml")
    own = {name: known[name]["defaultValue"] for name in seen["positional"][1]}
    assert seen["positional"][1] == own, "the chart's defaults are the pipelines'"


def test_the_schedule_is_one_that_mofe_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (config,) = of_kind(rendered("everything"), "ConfigMap")
    parameters = yaml.safe_load(config["data"]["parameters.yaml"])
    known = pipeline_parameters(ROOT / "pipelines" / "compiled" / "mofe.yaml")
    parameters = check_parameters(parameters, known, "the ConfigMap")
    assert (parameters["train_accelerators"], parameters["accelerators"]) == ("8", "0"), "its own go before the pool's"
    file = tmp_path / "parameters.yaml"
    file.write_text(config["data"]["parameters.yaml"])
    given = [str(file) if a == "/parameters/parameters.yaml" else a for a in arguments("everything", "schedule")]
    seen = called(monkeypatch, *given)
    assert seen["positional"][1:] == (parameters, "0 0 3 * * 1")
    assert (seen["name"], seen["kubeflow"].namespace, seen["kubeflow"].registry) == (
        "weekly",
        "team",
        "registry.example/team",
    )
    seen = called(monkeypatch, *arguments("everything", "unschedule"))
    assert (seen["positional"], seen["kubeflow"].namespace) == (("weekly",), "team")
    hooks = {
        d["metadata"]["name"]: d["metadata"]["annotations"]["helm.sh/hook"]
        for d in of_kind(rendered("everything"), "Job")
    }
    assert hooks["release-unschedule"] == "pre-delete"


def test_the_only_rights_are_those_of_num_nodes() -> None:
    for name in VALUES:
        kinds = {d["kind"] for d in rendered(name)}
        assert not kinds & {"ClusterRole", "ClusterRoleBinding"}
        assert ("Role" in kinds) == (name == "everything")
    (role,), (binding,) = (of_kind(rendered("everything"), kind) for kind in ("Role", "RoleBinding"))
    rights = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert rights == {
        ("trainjobs", "create"), ("trainjobs", "get"), ("trainjobs", "delete"),
        ("pods", "get"), ("pods", "list"), ("pods/log", "get"),
    }  # fmt: skip
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == "team"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "default-editor", "namespace": "team"}]


@pytest.mark.parametrize("name", VALUES)
def test_the_notes_name_what_is_there(name: str) -> None:
    text = helm("install", "release", str(CHART), "--namespace", "ml", "--dry-run=client", values=VALUES[name])
    notes = text.partition("NOTES:")[2]
    values = VALUES[name]
    assert ("MLFLOW_TRACKING_URI=" in notes) == values.get("mlflow", {}).get("enabled", True)
    assert ("mofe run -f" in notes) == values.get("pipelines", {}).get("register", True)
    assert ("mofe schedule weekly --off" in notes) == ("recurring" in values)
    assert ("num_nodes > 1" in notes) == ("trainer" in values)
    assert "canary" not in notes


def numbers(value: Any) -> Any:
    """Helm writes 1e-06, which is a number to Kubernetes and a text to PyYAML."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if isinstance(value, str) and re.fullmatch(r"\d+e-\d+", value) else value


def test_native_versions_are_the_compiled_pipelines() -> None:
    documents = rendered("native")
    for name in ("mofe", "sharded", "tables", "detect"):
        pipeline = "mofe" if name == "mofe" else f"mofe-{name}"
        compiled, platform = yaml.safe_load_all(
            (ROOT / "pipelines" / "compiled" / f"{name}.yaml")
            .read_text()
            .replace("ghcr.io/mofe/", "registry.example/team/")
        )
        defaults = compiled["root"]["inputDefinitions"]["parameters"]
        for parameter, value in (
            ("train_accelerators", "4"), ("node_selector", {"pool": "gpu"}), ("credentials", "ours"),
        ):  # fmt: skip
            if parameter in defaults:  # detect trains nothing
                defaults[parameter]["defaultValue"] = value
        (version,) = [d for d in of_kind(documents, "PipelineVersion") if d["spec"]["pipelineName"] == pipeline]
        assert numbers(version["spec"]["pipelineSpec"]) == compiled
        assert version["spec"]["platformSpec"] == platform
        assert version["metadata"]["name"].startswith(f"{pipeline}-0-1-0-")
        assert len(version["metadata"]["name"]) <= 63


def test_the_chart_carries_the_compiled_pipelines() -> None:
    for file in (ROOT / "pipelines" / "compiled").glob("*.yaml"):
        assert (CHART / "files" / file.name).read_bytes() == file.read_bytes(), "stale: run `make compile` and commit"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"registry": "registry.example/"}, "registry"),
        ({"mlflow": {"tag": "latest"}}, "tag"),
        ({"mlflow": {"servise": {}}}, "servise"),
        ({"pipelines": {"host": "ml-pipeline:8888"}}, "host"),
        ({"pool": {"gpus": 8}}, "gpus"),
        ({"pool": {"trainAccelerators": -1}}, "trainAccelerators"),
        ({"pool": {"tolerations": [{"key": "a", "effect": "Never"}]}}, "effect"),
        ({"recurring": {"enabled": True}}, "train_data"),
        ({"recurring": {"cron": "0 3 * * 1"}}, "cron"),
        ({"trainer": {"serviceAccount": ""}}, "serviceAccount"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    assert message in helm("template", "release", str(CHART), values=values, fails=True)
