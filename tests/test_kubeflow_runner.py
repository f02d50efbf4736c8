"""Submitting with the real kfp client, to a server that answers as the v2beta1 API does and checks what it is sent."""

import base64
import gzip
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
import pytest
import yaml

import mofe.runners.kubeflow as runner
from mofe.errors import MofeError
from mofe.runners.digests import compiled_pipeline
from mofe.runners.kubeflow_api import Kubeflow
from mofe.runners.workflow import cause_in, failures, report_ended

PARAMETERS = {
    "train_data": "s3://b/train",
    "test_data": "s3://b/test",
    "ood_data": [{"dataset": "d", "uri": "s3://b/d"}],
}


RECORDED = {
    file.stem: json.loads(file.read_text()) for file in (Path(__file__).parent / "kubeflow_runs").glob("*.json")
}
"""The nodes of runs on Kubernetes 1.34 with Kubeflow Pipelines 2.17, less the fields that nobody reads."""


def manifest(nodes: list[dict[str, Any]], compressed: bool = False) -> dict[str, Any]:
    """How API v1beta1 hands a workflow out; over a megabyte its nodes are compressed."""
    status: dict[str, Any] = {"nodes": {node["id"]: node for node in nodes}}
    if compressed:
        status = {"compressedNodes": base64.b64encode(gzip.compress(json.dumps(status["nodes"]).encode())).decode()}
    return {"pipeline_runtime": {"workflow_manifest": json.dumps({"status": status})}}


def words(lines: list[str]) -> list[list[str]]:
    return [re.split(r"\s{2,}", line) for line in lines]


class Server(BaseHTTPRequestHandler):
    """Keeps what it was sent in ``server.seen``; answers a run from ``server.states``, the last one for ever."""

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, content: dict[str, Any] | str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

    def do_GET(self) -> None:
        seen = self.server.seen  # type: ignore[attr-defined]
        seen.paths.append(self.path)
        seen.tokens.add(self.headers.get("authorization"))
        if self._answers_of_a_run(seen):
            return
        if self.path.startswith("/apis/v2beta1/pipelines/p-1/versions/v-1"):
            self._answer({"pipeline_version_id": "v-1", "pipeline_spec": seen.registered})
        elif self.path.startswith("/apis/v2beta1/experiments"):
            self._answer({})
        elif self.path.startswith("/apis/v2beta1/pipelines/p-1/versions"):
            self._answer({"pipeline_versions": [{"display_name": name} for name in seen.versions]})
        elif self.path.startswith("/apis/v2beta1/pipelines?"):
            known = [{"pipeline_id": "p-1"}] if seen.uploaded else []
            self._answer({"pipelines": known, "total_size": len(known)})
        elif self.path.startswith("/apis/v2beta1/recurringruns?"):
            kept = [{"recurring_run_id": i, "display_name": b["display_name"]} for i, b in seen.schedules.items()]
            first = "page_token=next" not in self.path  # two pages
            page = {"recurringRuns": kept[:1] if first else kept[1:]}
            self._answer({**page, "next_page_token": "next"} if first else page)
        elif self.path.startswith("/apis/v2beta1/runs?"):
            first = "page_token=next" not in self.path  # two pages
            self._answer({"runs": [{"run_id": "newer"}], "next_page_token": "next"} if first else {"runs": seen.runs})
        elif self.path == "/apis/v2beta1/healthz":
            self._answer({"multi_user": False})
        else:
            self._answer({"message": "not a call of v2beta1"}, 404)

    def _answers_of_a_run(self, seen: SimpleNamespace) -> bool:
        """Whether it was asked about one run, and has answered."""
        if self.path.startswith("/apis/v1alpha1/runs/run-1/nodes/") and self.path.endswith("/log"):
            node = self.path.split("/")[-2]
            # Kubeflow has begun to answer when it finds that there is no log
            self._answer(seen.logs.get(node, {"error_message": "Error: pods not found", "error_details": "…"}))
        elif self.path.startswith("/apis/v1beta1/runs/run-1") and seen.manifests:
            self._answer(seen.manifests.pop(0) if len(seen.manifests) > 1 else seen.manifests[0])
        elif self.path.startswith("/apis/v2beta1/runs/run-1"):
            state = seen.states.pop(0) if len(seen.states) > 1 else seen.states[0]
            if state == "down":
                self._answer({"message": "try later"}, 503)
            else:
                self._answer({"run_id": "run-1", **state})
        elif self.path.startswith("/apis/v2beta1/runs/run-0") and seen.earlier:
            self._answer({"run_id": "run-0", **seen.earlier})
        else:
            return False
        return True

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        seen = self.server.seen  # type: ignore[attr-defined]
        if self.path.startswith("/apis/v2beta1/pipelines/upload"):
            query = parse_qs(urlsplit(self.path).query)
            seen.uploaded.append(content)
            if "upload_version" in self.path:
                assert query["pipelineid"] == ["p-1"]
                seen.versions += query["name"]
            else:
                seen.names += query["name"]
            self._answer({"pipeline_id": "p-1", "pipeline_version_id": "v"})
            return
        if self.path.endswith(":disable"):
            seen.schedules[self.path.split("/")[-1].removesuffix(":disable")]["mode"] = "DISABLE"
            self._answer({})
            return
        body = json.loads(content)
        if self.path == "/apis/v2beta1/experiments":
            seen.experiment = body
            self._answer({"experiment_id": "e-1", **body})
        elif self.path == "/apis/v2beta1/recurringruns":
            seen.schedules[f"r-{len(seen.names)}"] = body
            seen.names.append(body["display_name"])
            self._answer({"recurring_run_id": "r", **body})
        elif self.path == "/apis/v2beta1/runs" and seen.refuse:
            self._answer({"message": "quota exceeded"}, 403)
        elif self.path == "/apis/v2beta1/runs":
            seen.run = body
            self._answer({"run_id": "run-1", **body})

    def do_DELETE(self) -> None:
        del self.server.seen.schedules[self.path.rpartition("/")[2]]  # type: ignore[attr-defined]
        self._answer({})


@pytest.fixture
def kubeflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    monkeypatch.setattr(runner, "POLL_INTERVAL", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    seen = SimpleNamespace(
        paths=[], tokens=set(), states=[{"state": "SUCCEEDED"}], refuse=False, uploaded=[], versions=[], names=[],
        earlier=None, registered=None, schedules={}, logs={}, manifests=[], runs=[],
    )  # fmt: skip
    server.seen = seen  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    seen.host = f"http://127.0.0.1:{server.server_port}"
    yield seen
    server.shutdown()
    server.server_close()


def submit(kubeflow: SimpleNamespace, **more: Any) -> list[str]:
    said: list[str] = []
    there = Kubeflow(kubeflow.host, log=said.append, **more)
    runner.submit(there, compiled_pipeline("mofe.yaml"), PARAMETERS, name="params")
    return said


def quiet(kubeflow: SimpleNamespace, **more: Any) -> Kubeflow:
    return Kubeflow(kubeflow.host, log=lambda _: None, **more)


def test_a_run_is_submitted_followed_and_told(kubeflow: SimpleNamespace) -> None:
    kubeflow.states = [{"state": "PENDING"}, {"state": "RUNNING"}, "down", {"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    nodes = RECORDED["cached"]
    kubeflow.manifests = [{}, manifest(nodes[:20]), manifest(nodes[:60]), manifest(nodes, compressed=True)]
    said = submit(kubeflow, registry="registry.example/team/")
    assert said[0] == f"run run-1: {kubeflow.host}/#/runs/details/run-1"
    assert words(said[1:]) == [
        ["✓ fingerprint", "0:00:10"], ["✓ prepare train", "cached"], ["✓ prepare test", "cached"],
        ["✓ prepare OOD set 1", "cached"], ["✓ prepare OOD set 2", "cached"], ["✓ extract", "cached"],
        ["✓ partition", "cached"], ["✓ texts", "cached"], ["✓ finetune", "cached"], ["✓ index", "cached"],
        ["✓ score test", "cached"], ["✓ score OOD set 1", "cached"], ["✓ score OOD set 2", "cached"],
        ["✓ evaluate", "cached"],
    ]  # fmt: skip

    assert kubeflow.experiment["display_name"] == "mofe"
    sent = kubeflow.run
    known = set(kfp_server_api.V2beta1Run.attribute_map.values())
    assert set(sent) <= known, "only fields that the API's own model has"
    assert sent["experiment_id"] == "e-1"
    assert sent["display_name"] == "params"
    assert sent["runtime_config"]["parameters"] == PARAMETERS
    executors = sent["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    images = {spec["container"]["image"] for spec in executors.values()}
    assert all(re.fullmatch(r"registry\.example/team/mofe-\w+:[\w.]+-[0-9a-f]{12}", image) for image in images)
    assert "kubernetes" in sent["pipeline_spec"]["platform_spec"]["platforms"]
    assert executors["exec-finetune"]["container"]["resources"]["resourceMemoryLimit"] == "32Gi", "no longer an input"


def test_without_the_workflow_a_run_is_followed_to_its_end(kubeflow: SimpleNamespace) -> None:
    assert len(submit(kubeflow)) == 1
    kubeflow.states = [{"state": "FAILED", "error": {"message": "no more room"}}]
    with pytest.raises(MofeError, match=r"run-1 ended as failed: no more room"):
        submit(kubeflow)


def test_where_argo_keeps_the_state_in_its_database_that_is_said_once(kubeflow: SimpleNamespace) -> None:
    kubeflow.states = [{"state": "RUNNING"}, {"state": "RUNNING"}, {"state": "SUCCEEDED"}]
    status = {"status": {"phase": "Running", "offloadNodeStatusVersion": "fnv:1995272498"}}
    kubeflow.manifests = [{"pipeline_runtime": {"workflow_manifest": json.dumps(status)}}]
    said = submit(kubeflow)
    assert len(said) == 2
    assert "in a database" in said[1]


def test_of_a_comparison_each_configuration_is_told(kubeflow: SimpleNamespace) -> None:
    kubeflow.states, kubeflow.manifests = [{"state": "FAILED"}], [manifest(RECORDED["killed"])]
    said: list[str] = []
    with pytest.raises(MofeError, match=r"failed: partition 1 \(main: Error \(exit code 143\)\)$"):
        runner.submit(
            Kubeflow(kubeflow.host, log=said.append), compiled_pipeline("tables.yaml"), PARAMETERS, name="params"
        )
    assert ["✗ partition 1", "failed"] in words(said)
    assert ["✓ partition 2", "0:00:20"] in words(said)
    assert ["✓ score OOD set 2.1", "0:00:24"] in words(said), "the first set of the second configuration"


def test_a_failed_run_names_the_stage_and_the_cause_from_its_log(kubeflow: SimpleNamespace) -> None:
    kubeflow.states, kubeflow.manifests = [{"state": "FAILED"}], [manifest(RECORDED["failed"])]
    with pytest.raises(MofeError, match=r"run-1 ended as failed: fingerprint \(main: Error \(exit code 1\)\)$"):
        submit(kubeflow)
    kubeflow.logs["mofe-jpjkr-3614360713"] = (
        "Traceback (most recent call last):\n"
        '  File "/usr/local/lib/python3.11/site-packages/mofe/storage.py", line 290, in digest_of_listing\n'
        "mofe.errors.MofeError: there are no files at s3://data/digits/tset\n"
        "E1126 16:09:34.396593      16 launcher_v2.go:449] Component failed to execute successfully: exit status 1\n"
        "F1126 16:09:34.484734      16 main.go:59] failed to execute component: exit status 1\n"
        "Error: exit status 1\n"
    )
    with pytest.raises(MofeError, match=r"failed: fingerprint \(there are no files at s3://data/digits/tset\)"):
        submit(kubeflow)
    pod = "mofe-jpjkr-retry-system-container-impl-3614360713"
    kubeflow.logs[pod] = "main.go:59] failed to execute component: signal: killed\n"
    with pytest.raises(MofeError, match=r"failed: fingerprint \(signal: killed \(out of memory\?\)\)"):
        submit(kubeflow)


def test_of_two_tasks_of_one_name_each_is_told() -> None:
    """The shards of a sharded run's features, and those of its scores, are made by tasks of one name."""
    documents = list(yaml.safe_load_all(compiled_pipeline("sharded.yaml").read_text()))
    when = {"type": "DAG", "phase": "Succeeded", "startedAt": "2026-11-26T16:00:00Z"}
    nodes = [
        {**when, "id": f"m-{number}{part}", "name": f"m(0).root(0).{task}(0).plan-shards{part}",
         "finishedAt": f"2026-11-26T16:0{number}:00Z"}
        for number, task in enumerate(("extract-shards", "score-shards"), 1)
        for part in ("", "(0).executor", "(0).executor(0)")
    ]  # fmt: skip
    nodes[1]["phase"] = "Skipped"
    nodes.pop(2)
    assert words(list(report_ended(nodes, documents, set()))) == [
        ["✓ plan_shards", "cached"],
        ["✓ plan_shards", "0:02:00"],
    ]
    nodes[-1].update(type="Pod", phase="Failed", message="main: Error", templateName="impl")
    nodes[1].update(type="Pod", phase="Succeeded", finishedAt="2026-11-26T16:09:00Z")
    assert [failure.message for failure in failures(nodes, documents)] == ["main: Error"]


def test_a_driver_of_the_whole_pipeline_has_a_name() -> None:
    documents = list(yaml.safe_load_all(compiled_pipeline("mofe.yaml").read_text()))
    node = {"id": "m-1", "name": "m(0).root-driver(0)", "type": "Pod", "phase": "Error", "finishedAt": "2026-11-26"}
    assert [failure.stage for failure in failures([node], documents)] == ["the pipeline"]


def test_what_ended_a_stage_from_outside_goes_before_what_it_had_caught() -> None:
    caught = "urllib3.exceptions.ConnectionError: tried again\n"
    assert cause_in(f"{caught}failed to execute component: signal: killed\nError: signal: killed\n") == (
        "signal: killed (out of memory?)"
    )
    assert cause_in(f"{caught}failed to execute component: exit status 1\nError: exit status 1\n") == (
        "ConnectionError: tried again"
    )


def test_a_refusal_and_a_server_that_goes_away_are_said(
    kubeflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_MISSES", 3)
    kubeflow.states = [{"state": "RUNNING"}, "down"]
    with pytest.raises(MofeError, match=r"run run-1 cannot be followed any more .*try later.*may still be running"):
        submit(kubeflow)
    kubeflow.refuse = True
    with pytest.raises(MofeError, match=r"refused the run: .*quota exceeded"):
        submit(kubeflow)


def test_a_token_goes_into_the_header_and_nowhere_else(
    kubeflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_TOKEN", "canary-token")
    said = submit(kubeflow)
    assert kubeflow.tokens == {"Bearer canary-token"}
    output = capsys.readouterr()
    assert "canary" not in f"{said}{output.out}{output.err}{kubeflow.run}"


def test_a_version_is_registered_once(kubeflow: SimpleNamespace) -> None:
    said: list[str] = []
    for registry in ("registry.example/a", "registry.example/a", "registry.example/b"):
        there = Kubeflow(kubeflow.host, registry=registry, log=said.append)
        runner.register(there, [compiled_pipeline("mofe.yaml")])
    assert [line.split(maxsplit=2)[2] for line in said] == ["registered", "was already registered", "registered"]
    assert kubeflow.names == ["mofe"]
    assert len(kubeflow.versions) == len(set(kubeflow.versions)) == 2
    assert b"registry.example/b/mofe-train:" in kubeflow.uploaded[-1]


def earlier_spec(kubeflow: SimpleNamespace) -> dict[str, Any]:
    """A run is submitted and becomes the earlier one, as the server gives it back."""
    submit(kubeflow, registry="registry.example/then")
    kubeflow.earlier = {**kubeflow.run, "service_account": "runner"}
    kubeflow.earlier["runtime_config"] |= {"pipeline_root": "s3://b/root"}
    return dict(kubeflow.run["pipeline_spec"])


def again(kubeflow: SimpleNamespace, stage: str, **more: Any) -> dict[str, Any]:
    earlier = runner.earlier_run(quiet(kubeflow), "run-0")
    parameters = {**earlier.parameters, "knn_k": 9}
    runner.submit_again(quiet(kubeflow, **more), earlier, stage, parameters)
    return dict(kubeflow.run)


def test_one_stage_of_an_earlier_run_is_submitted_again(kubeflow: SimpleNamespace) -> None:
    before = earlier_spec(kubeflow)["pipeline_spec"]
    sent = again(kubeflow, "index")
    assert set(sent) <= set(kfp_server_api.V2beta1Run.attribute_map.values())
    assert (sent["experiment_id"], sent["service_account"]) == ("e-1", "runner")
    assert sent["display_name"] == "params index"
    assert sent["runtime_config"] == {"parameters": {**PARAMETERS, "knn_k": 9}, "pipeline_root": "s3://b/root"}
    spec = sent["pipeline_spec"]["pipeline_spec"]
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {
        "fingerprint", "prepare", "prepare-2", "prepare-ood", "check-classes", "extract", "texts", "partition",
        "finetune", "index",
    }  # fmt: skip
    assert {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")} == {
        "fingerprint", "index",
    }  # fmt: skip
    # what Kubeflow's cache compares is as it was
    assert spec["pipelineInfo"] == before["pipelineInfo"]
    executors = spec["deploymentSpec"]["executors"]
    assert executors == {name: before["deploymentSpec"]["executors"][name] for name in executors}
    assert {n: t["inputs"] for n, t in tasks.items() if "inputs" in t} == {
        n: before["root"]["dag"]["tasks"][n]["inputs"] for n, t in tasks.items() if "inputs" in t
    }
    assert set(sent["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) == set(
        executors
    )


def test_of_a_run_from_the_ui_only_the_stage_asks_for_more(kubeflow: SimpleNamespace) -> None:
    """There resources are inputs of the tasks, and the cache compares them."""
    earlier_spec(kubeflow)
    pipeline, platform = yaml.safe_load_all(compiled_pipeline("mofe.yaml").read_text())
    kubeflow.earlier["pipeline_spec"] = {"pipeline_spec": pipeline, "platform_spec": platform}
    kubeflow.earlier["runtime_config"]["parameters"]["cpu"] = "4"
    earlier = runner.earlier_run(quiet(kubeflow), "run-0")
    more = {**earlier.parameters, "memory": "64Gi", "cpu": "16"}
    runner.submit_again(quiet(kubeflow), earlier, "index", more)
    assert kubeflow.run["runtime_config"]["parameters"] == {**PARAMETERS, "cpu": "4"}
    spec = kubeflow.run["pipeline_spec"]["pipeline_spec"]
    tasks, before = spec["root"]["dag"]["tasks"], pipeline["root"]["dag"]["tasks"]
    for stage in ("extract", "finetune"):
        assert tasks[stage]["inputs"] == before[stage]["inputs"]
    asked = spec["deploymentSpec"]["executors"]["exec-index"]["container"]["resources"]
    assert (asked["resourceMemoryLimit"], asked["resourceCpuRequest"]) == ("64Gi", "16")
    assert "pipelinechannel--memory" not in tasks["index"]["inputs"]["parameters"]


def test_of_a_registered_pipeline_it_is_that_version(kubeflow: SimpleNamespace) -> None:
    kubeflow.registered = earlier_spec(kubeflow)
    del kubeflow.earlier["pipeline_spec"]
    kubeflow.earlier["pipeline_version_reference"] = {"pipeline_id": "p-1", "pipeline_version_id": "v-1"}
    assert "finetune" in again(kubeflow, "finetune")["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert any(path.startswith("/apis/v2beta1/pipelines/p-1/versions/v-1") for path in kubeflow.paths)


def test_with_a_registry_the_stage_alone_runs_its_present_code(kubeflow: SimpleNamespace) -> None:
    earlier_spec(kubeflow)
    spec = again(kubeflow, "index", registry="registry.example/now")["pipeline_spec"]["pipeline_spec"]
    images = {name: e["container"]["image"] for name, e in spec["deploymentSpec"]["executors"].items()}
    assert {name for name, image in images.items() if image.startswith("registry.example/now/")} == {"exec-index"}


def test_a_run_that_is_not_there_is_said(kubeflow: SimpleNamespace) -> None:
    with pytest.raises(MofeError, match=r"has no run run-0: .*not a call"):
        runner.earlier_run(quiet(kubeflow), "run-0")


def test_defaults_of_this_cluster_are_registered(kubeflow: SimpleNamespace) -> None:
    said: list[str] = []
    pool = {"train_accelerators": 8, "node_selector": {"pool": "gpu"}}
    for defaults in ({}, pool, pool):
        there = Kubeflow(kubeflow.host, log=said.append)
        runner.register(there, [compiled_pipeline("mofe.yaml")], defaults)
    assert [line.split(maxsplit=2)[2] for line in said] == ["registered", "registered", "was already registered"]
    plain, changed = (next(iter(yaml.safe_load_all(text))) for text in map(uploaded, kubeflow.uploaded[1:]))
    for name, value in pool.items():
        plain["root"]["inputDefinitions"]["parameters"][name]["defaultValue"] = value
    assert changed == plain


def test_a_namespace_is_where_pipelines_are_looked_for_and_not_where_kubeflow_is(
    kubeflow: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner.register(quiet(kubeflow, namespace="alice"), [compiled_pipeline("mofe.yaml")])
    (asked,) = [path for path in kubeflow.paths if path.startswith("/apis/v2beta1/pipelines?")]
    assert parse_qs(urlsplit(asked).query)["namespace"] == ["alice"]
    made: list[dict[str, Any]] = []
    monkeypatch.setattr("kfp.Client", lambda host, **given: made.append(given) or 1 / 0)
    with pytest.raises(MofeError, match="cannot be reached"):
        runner.register(Kubeflow(namespace="alice"), [compiled_pipeline("mofe.yaml")])
    assert "namespace" not in made[0]


def test_a_default_that_a_pipeline_does_not_have_is_another_pipelines(kubeflow: SimpleNamespace) -> None:
    pool = {"train_accelerators": 8, "cpu": "4"}
    runner.register(quiet(kubeflow), [compiled_pipeline("detect.yaml")], pool)
    parameters = next(iter(yaml.safe_load_all(uploaded(kubeflow.uploaded[-1]))))["root"]["inputDefinitions"][
        "parameters"
    ]
    assert parameters["cpu"]["defaultValue"] == "4"
    assert "train_accelerators" not in parameters


def uploaded(form: bytes) -> str:
    """The file in a form that was sent."""
    return form.decode().split("\r\n\r\n", 1)[1].rpartition("\r\n--")[0]


def test_a_schedule_is_kept_replaced_and_ended(kubeflow: SimpleNamespace) -> None:
    said: list[str] = []
    there = Kubeflow(kubeflow.host, registry="registry.example/team", log=said.append)

    def schedule(name: str, cron: str) -> None:
        runner.schedule(there, compiled_pipeline("mofe.yaml"), PARAMETERS, cron, name=name)

    schedule("other", "0 0 3 * * 1")
    schedule("weekly", "0 0 3 * * 1")
    schedule("weekly", "@daily")
    assert said == [
        "other runs at 0 0 3 * * 1",
        "weekly runs at 0 0 3 * * 1",
        "weekly runs at @daily and replaces the earlier schedule",
    ]
    other, weekly = kubeflow.schedules.values()
    assert set(weekly) <= set(kfp_server_api.V2beta1RecurringRun.attribute_map.values())
    assert (other["display_name"], weekly["display_name"]) == ("other", "weekly")
    assert weekly["trigger"] == {"cron_schedule": {"cron": "@daily"}}
    assert (weekly["experiment_id"], weekly["mode"], weekly["max_concurrency"]) == ("e-1", "ENABLE", 1)
    assert weekly["no_catchup"] is True
    assert weekly["runtime_config"] == {"parameters": PARAMETERS}
    executors = weekly["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"]
    assert all("registry.example/team/" in spec["container"]["image"] for spec in executors.values())
    assert executors["exec-finetune"]["container"]["resources"]["resourceCpuRequest"] == "8", "no longer an input"

    begun = {"run_id": "run-2", "recurring_run_id": next(reversed(kubeflow.schedules)), "state": "RUNNING"}
    kubeflow.runs = [begun]
    runner.unschedule(there, "weekly")
    assert weekly["mode"] == "DISABLE", "Kubernetes would delete the run that has begun with its schedule"
    begun["state"] = "SUCCEEDED"
    runner.unschedule(there, "weekly")
    assert [body["display_name"] for body in kubeflow.schedules.values()] == ["other"]
    runner.unschedule(there, "weekly")
    assert said[-2:] == ["the schedule weekly has ended", "there is no schedule weekly"]
    with pytest.raises(MofeError, match="has 5 fields: Kubeflow's six begin with seconds"):
        schedule("weekly", "0 3 * * 1")
