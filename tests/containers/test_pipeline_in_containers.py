"""The images, and the pipeline in them; `make test-containers` sets MOFE_TEST_CONTAINERS and so asks for an engine."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from servers import free_ports

from mofe import __version__, load_detector
from mofe.errors import MofeError
from mofe.runners.digests import compiled_pipeline, images_of, stamp
from mofe.runners.local import RunResult, run_pipeline

pytestmark = [
    pytest.mark.containers,
    pytest.mark.skipif(
        not os.environ.get("MOFE_TEST_CONTAINERS"), reason="builds gigabytes of images: make test-containers"
    ),
]
ROOT = Path(__file__).parents[2]
REGISTRY = "localhost/mofe-test"
STAGED = images_of(stamp(compiled_pipeline("mofe.yaml").read_text(), REGISTRY))


class Run(NamedTuple):
    work: Path
    result: RunResult


@pytest.fixture(scope="session")
def engine() -> Iterator[Any]:
    import docker

    client = docker.from_env()
    client.ping()
    yield client
    client.close()


@pytest.fixture(scope="session")
def built() -> str:
    """What building says, of the images that the main pipeline names and of the one that serves."""
    command = [sys.executable, "docker/build.py"]
    environment = {**os.environ, "REGISTRY": REGISTRY, "TARGETS": " ".join([*STAGED, "serve"])}
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("target", STAGED)
def test_an_image_is_labelled_and_not_root(engine: Any, target: str) -> None:
    for name in STAGED[target]:
        image = engine.images.get(name)
        assert image.labels["org.opencontainers.image.revision"]
        assert image.attrs["Config"]["User"] == "1000"
        assert b"mofe" in engine.containers.run(name, ["mofe", "--version"], remove=True)


@pytest.mark.usefixtures("built")
def test_partition_holds_wordnet_and_no_torch(engine: Any) -> None:
    code = (
        "import importlib.util as u; assert not u.find_spec('torch');"
        "from mofe.partitioning.wordnet import readable_name; print(readable_name('golden_retriever.n.01'))"
    )
    alone = {"network_mode": "none", "remove": True}
    for name in STAGED["partition"]:  # of check_classes and of partition
        assert engine.containers.run(name, ["python", "-c", code], **alone).decode().strip() == "golden retriever"


def test_what_is_there_is_not_built_again(built: str) -> None:
    assert built
    environment = {**os.environ, "REGISTRY": REGISTRY, "TARGETS": "data report", "BUILD_ARGS": "--no-such-argument"}
    done = subprocess.run(
        [sys.executable, "docker/build.py"], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("there already") == 2


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from mofe.data.digits import write_digits

    place = tmp_path_factory.mktemp("digits")
    write_digits(str(place))
    import yaml

    few = {"train_images_per_class": 30, "evaluation_images_per_class": 20}
    small = {**few, "epochs": 1, "warmup_epochs": 0.5, "probe_epochs": 3}
    sets = [
        {"dataset": "digits-8-9", "uri": f"{place}/near-ood"},
        {"dataset": "letters", "uri": f"{place}/far-ood-letters"},
    ]
    places = {"train_data": f"{place}/train", "test_data": f"{place}/test", "ood_data": sets}
    return {**yaml.safe_load((ROOT / "examples/digits.yaml").read_text()), **small, **places}


@pytest.fixture(scope="session")
def runs(built: str, engine: Any, digits: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The pipeline as processes and in containers."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")  # the same sums in the same order
        for runner in ("subprocess", "docker"):
            work = tmp_path_factory.mktemp(runner)
            given = {**digits, "checkpoints": str(work / "checkpoints")}
            made[runner] = Run(
                work, run_pipeline(compiled_pipeline("mofe.yaml"), given, work, runner, registry=REGISTRY)
            )  # type: ignore[arg-type]
    return made


def test_the_pipeline_in_containers_gives_what_it_gives_in_processes(runs: dict[str, Run]) -> None:
    found = {}
    for runner, (work, result) in runs.items():
        found[runner] = numbers(json.loads(result.outputs["metrics"].read_text()))
        assert not any(execution.cached for execution in result.executions)
        assert result.outputs["metrics"].owner() == Path.home().owner()
        assert list((work / "logs" / result.run_id / "tracking").glob("*finetune*.jsonl*"))
    assert found["docker"] == pytest.approx(found["subprocess"], abs=1e-6)


def test_the_serving_image_answers(runs: dict[str, Run], engine: Any, digits: dict[str, Any]) -> None:
    (port,) = free_ports(1)
    detector = runs["docker"].result.outputs["detector"]
    locked = {"read_only": True, "cap_drop": ["ALL"], "tmpfs": {"/tmp": ""}, "user": "1000"}
    container = engine.containers.run(
        f"{REGISTRY}/mofe-serve:{__version__}", ["--detector", "/detector", "--port", str(port)], detach=True,
        network_mode="host", volumes={str(detector): {"bind": "/detector", "mode": "ro"}}, **locked,
    )  # fmt: skip
    try:
        address = f"http://127.0.0.1:{port}/v2/models/mofe"
        for _ in range(300):
            with suppress(OSError), urllib.request.urlopen(f"{address}/ready"):
                break
            container.reload()
            assert container.status != "exited", container.logs().decode()
            time.sleep(0.5)
        image = next(Path(digits["test_data"]).rglob("*.png"))
        data = [base64.b64encode(image.read_bytes()).decode()]
        question = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": data}]}
        body, headers = json.dumps(question).encode(), {"Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(f"{address}/infer", body, headers), timeout=60) as answer:
            outputs = {output["name"]: output["data"][0] for output in json.load(answer)["outputs"]}
    finally:
        container.remove(force=True)
    loaded = load_detector(str(detector))
    expected = loaded.score(image)
    assert outputs["class"] == loaded.classes[expected.predicted_B[0]]
    assert outputs["score"] == pytest.approx(expected.values["knn"][0], abs=1e-4)


def numbers(value: Any, name: str = "") -> dict[str, float]:
    """Every number in a JSON value by its place in it."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {key: number for part, item in items for key, number in numbers(item, f"{name}.{part}").items()}
    return {name: float(value)} if isinstance(value, int | float) else {}


@pytest.mark.usefixtures("built", "engine")
def test_a_stage_that_fails_in_its_container_fails_the_run(digits: dict[str, Any], tmp_path: Path) -> None:
    """kfp by itself calls this a success."""
    (tmp_path / "empty").mkdir()
    given = {**digits, "train_data": str(tmp_path / "empty")}
    with pytest.raises(MofeError, match=r"fingerprint.*empty|no files"):
        run_pipeline(compiled_pipeline("mofe.yaml"), given, tmp_path / "work", "docker", registry=REGISTRY)
