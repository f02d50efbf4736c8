"""The command line as a person meets it: help that teaches, parameters checked before any work, errors in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import command_line, write_report

from mofe.cli.main import main
from mofe.errors import MofeError
from mofe.parameters.file import check_parameters, pipeline_parameters
from mofe.runners.digests import compiled_pipeline
from mofe.stages import STAGES

KNOWN = pipeline_parameters(compiled_pipeline("mofe.yaml"))
LEAST = {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]}


def mofe(*arguments: str, code: int = 0) -> str:
    """Runs the command; its output."""
    done = command_line(*arguments)
    assert done.code == code, done.err
    return str(done.out.decode() + done.err)


@pytest.mark.integration
def test_the_command_is_there() -> None:
    done = subprocess.run([sys.executable, "-m", "mofe", "stage", "prepair"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("mofe: there is no stage 'prepair'")
    assert "Traceback" not in done.stderr


def test_help_teaches() -> None:
    assert "mofe run -f params.yaml" in mofe()
    assert mofe("--version").startswith("mofe ")
    assert "num_experts=4" in mofe("run", "--help")
    stages = mofe("stage", "--help")
    assert all(stage in stages for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_docstring_is_its_help(stage: str) -> None:
    text = mofe("stage", stage, "--help")
    assert f"usage: mofe stage {stage}" in text
    assert "--help" in text
    assert text.count("--") > 3


@pytest.mark.integration
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_error(unbuffered: str) -> None:
    command = [sys.executable, "-m", "mofe", "stage", "--help"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_a_connection_that_broke_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(arguments: list[str]) -> None:
        raise BrokenPipeError("a connection")

    monkeypatch.setattr("mofe.cli.main._run", refused)
    with pytest.raises(BrokenPipeError, match="a connection"):
        main()


def test_a_stage_by_hand(tmp_path: Path) -> None:
    mofe("data", "digits", "--to", str(tmp_path / "digits"))
    images = tmp_path / "images"
    options = ["--images", str(images), "--name", "letters", "--role", "ood", "--images-per-class", "5"]
    assert "letters: 403 entries: 5 images of 0 classes, 0 rejected, 398 passed over" in mofe(
        "stage", "prepare", "--source", str(tmp_path / "digits/far-ood-letters"), *options
    )
    assert json.loads((images / "dataset.json").read_text())["num_images"] == 5
    wrong = mofe("stage", "prepare", "--source", str(tmp_path / "none"), *options, code=1)
    assert wrong.strip().splitlines()[-1].startswith(f"mofe: there is nothing at {tmp_path}/none")
    assert "there is no stage 'prepair'" in mofe("stage", "prepair", code=1)


def test_compile_writes_what_kubeflow_takes(tmp_path: Path) -> None:
    mofe("compile", "-o", str(tmp_path / "plain.yaml"))
    assert (tmp_path / "plain.yaml").read_bytes() == compiled_pipeline("mofe.yaml").read_bytes()
    assert "registry.example/x/mofe-train:" in mofe("compile", "--registry", "registry.example/x/")


def test_defaults_and_schedules_are_checked_before_kubeflow_is_asked(tmp_path: Path) -> None:
    assert "--set: the pipeline has no parameter 'acelerators'; did you mean" in mofe(
        "register", "--set", "acelerators=8", code=1
    )
    assert "has no parameter 'seed'" in mofe("register", "--set", "seed=1", code=1), "tables has seeds"
    assert "needs -f and --cron" in mofe("schedule", "weekly", "--cron", "@daily", code=1)
    (tmp_path / "p.yaml").write_text("train_data: a")
    assert "the parameter ood_data is missing" in mofe(
        "schedule", "weekly", "-f", str(tmp_path / "p.yaml"), "--cron", "@daily", code=1
    )


def test_good_parameters_pass_and_whole_numbers_become_floats() -> None:
    given = {**LEAST, "learning_rate": 1, "weight_decay": "1e-4", "num_experts": 3, "backbone_args": {"img_size": 32}}
    typed = check_parameters(given, KNOWN, "x")
    assert (typed["learning_rate"], typed["weight_decay"]) == (1.0, 1e-4)
    assert given["learning_rate"] == 1, "what was given stays as it was"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({**LEAST, "num_expert": 3}, r"no parameter 'num_expert'; did you mean num_experts\?"),
        ({**LEAST, "num_experts": 3.5}, r"num_experts = 3\.5 is not a whole number"),
        ({**LEAST, "num_experts": True}, "num_experts = True is not a whole number"),
        ({**LEAST, "learning_rate": "fast"}, "learning_rate = 'fast' is not a number"),
        ({**LEAST, "ood_data": {"a": "b"}}, "is not a list"),
        ({**LEAST, "backbone": 7}, "backbone = 7 is not text"),
        ({"train_data": "a", "ood_data": []}, "the parameter test_data is missing"),
    ],
)
def test_bad_parameters_are_named(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        check_parameters(parameters, KNOWN, "params.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold parameters"),
        ("a: [\n", "is not YAML"),
        ("train: x\n", "no parameter 'train'"),
        ("on: x\n", "no parameter True"),  # as YAML 1.1 has it; found by scripts/fuzz.py
        ("train_data: 2026-99-99\n", "is not YAML: month must be in 1..12"),
        ("a: " + "[" * 5000, "is not YAML"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_bad_parameter_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    output = mofe("run", "-f", str(tmp_path / "p.yaml"), "--work", str(tmp_path / "work"), code=1)
    assert message in output
    assert output.startswith("mofe: ")
    assert not (tmp_path / "work").exists()
    assert "no parameter file" in mofe("run", "-f", str(tmp_path / "none.yaml"), code=1)
    for folder in (str(tmp_path), ""):
        assert "cannot read the parameter file" in mofe("run", "-f", folder, code=1)


@pytest.mark.integration
def test_files_are_utf8_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("train_data: Größe\nσ: 1\n", encoding="utf-8")
    ascii_only = {**os.environ, "LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-m", "mofe", *arguments], capture_output=True, env=ascii_only)

    assert b"the pipeline has no parameter '\\u03c3'" in run("run", "-f", str(tmp_path / "p.yaml")).stderr
    assert run("compile").stdout == compiled_pipeline("mofe.yaml").read_bytes()
    spread = {"mean": 0.5, "std": None}
    row = {"label": "größer", "settings": {}, "score": "knn", "seeds": 1, "id_accuracy": spread,
           "router_accuracy": spread, "fpr95": {"far": spread}, "auroc": {"far": spread}, "paper_fpr95": {},
           "paper_auroc": {}, "paper_average": [None, None], "paper_id_accuracy": None}  # fmt: skip
    (tmp_path / "tables.json").write_text(json.dumps([{"title": "t", "id_data": "d", "rows": [row]}]), encoding="utf-8")
    assert "größer".encode() in run("report", str(tmp_path), "--format", "csv").stdout


@pytest.mark.parametrize("example", sorted(Path(__file__).parents[1].glob("examples/*.yaml")), ids=lambda p: p.stem)
def test_the_examples_have_valid_parameters(example: Path) -> None:
    import yaml

    known = pipeline_parameters(compiled_pipeline("detect.yaml")) if example.stem == "batch" else KNOWN
    check_parameters(yaml.safe_load(example.read_text()), known, str(example))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no parameter file: mofe run -f params.yaml"),
        (["--only", "index"], "--only STAGE and --from-run RUN must be given together"),
        (["--from-run", "r"], "--only STAGE and --from-run RUN must be given together"),
        (["-f", "p.yaml", "--only", "index", "--from-run", "r"], "without -f"),
        (["--only", "index", "--from-run", "r"], "no run r in any folder of runs/; name its work folder"),
        (["--only", "index", "--from-run", "r", "--work", "w"], "no record of a run 'r' in w; runs there: none"),
    ],
)
def test_one_stage_again_needs_its_run(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in mofe("run", *arguments, code=1)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"run": "r", "name": "n", "parameters": []}', "\udcff"])
def test_a_damaged_record_of_a_run_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "logs/r").mkdir(parents=True)
    (tmp_path / "logs/r/run.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    again = mofe("run", "--only", "index", "--from-run", "r", "--work", str(tmp_path), code=1)
    assert again.startswith(f"mofe: {tmp_path}/logs/r/run.json is not a valid record of a run: ")


@pytest.mark.parametrize("content", ["", "[{", "{}", "[3]", '[{"title": "t", "rows": [{"label": "l"}]}]', "\udcff"])
def test_damaged_tables_are_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "tables.json").write_text(content, encoding="utf-8", errors="surrogateescape")
    assert mofe("report", str(tmp_path), code=1).startswith(f"mofe: {tmp_path}/tables.json is not a valid comparison: ")


@pytest.mark.integration
def test_a_folder_in_the_place_of_a_link_does_not_hide_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {"metrics": tmp_path / "metrics", "report": write_report(tmp_path), "detector": tmp_path / "made"}
    monkeypatch.setattr("mofe.runners.local.run_pipeline", lambda *_, **__: SimpleNamespace(outputs=outputs))
    (tmp_path / "p.yaml").write_text(json.dumps(LEAST), encoding="utf-8")
    run = ["run", "-f", str(tmp_path / "p.yaml"), "--work", str(tmp_path)]
    assert "ID accuracy" in mofe(*run)
    assert (tmp_path / "detector").readlink() == Path("made")
    (tmp_path / "detector").unlink()
    (tmp_path / "detector").mkdir()
    shown = mofe(*run)
    assert "ID accuracy" in shown
    assert f"{tmp_path}/detector is not a link to this run's detector, which is at {tmp_path}/made: " in shown


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["detect", "--detector", "d", ""], "IMAGES"),
        (["detect", "--detector", " ", "a.png"], "--detector"),
        (["detect", "--detector", "d", "a.png", "--unknown", ""], "--unknown"),
        (["serve", "--detector", ""], "--detector"),
        (["run", "-f", "p.yaml", "--work", ""], "--work"),
        (["report", ""], "FOLDER"),
        (["data", "digits", "--to", ""], "--to"),
        (["stage", "partition", "--features", "f", "--partition", ""], "--partition"),
    ],
)
def test_an_empty_place_is_not_the_current_folder(
    arguments: list[str], place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mofe(*arguments, code=1).startswith(f"mofe: {place} is empty: check that the variables")
    assert not list(tmp_path.iterdir())
