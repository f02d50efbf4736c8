"""What runs again when something changes, and what does not: the real graph and runner, with stand-ins for stages."""

import ast
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from helpers import executed

from mofe.errors import MofeError
from mofe.runners import digests
from mofe.runners.local import RunResult

pytestmark = pytest.mark.integration

SCORES = ["score:far", "score:id-test", "score:near"]
BELOW_PARTITION = ["finetune", "index", *SCORES]
PREPARE = ["prepare", "prepare:id-test", "prepare:near", "prepare:far"]
EVERYTHING = sorted(
    ["fingerprint", *PREPARE, "check_classes", "extract", "texts", "partition", *BELOW_PARTITION, "evaluate"]
)


Run = Callable[..., RunResult]


def always(*stages: str) -> list[str]:
    """``fingerprint`` is never cached."""
    return sorted(["fingerprint", *stages])


def test_everything_runs_once_and_then_nothing(run: Run) -> None:
    assert executed(run()) == EVERYTHING
    for _ in range(3):
        again = run()
        assert executed(again) == always()
        assert len(again.executions) == len(EVERYTHING)


def test_a_folder_that_was_renamed_or_copied_takes_its_own_results(run: Run, tmp_path: Path) -> None:
    checkpoints = {"checkpoints": str(tmp_path / "work" / "checkpoints")}  # as mofe run gives it
    run(**checkpoints)
    shutil.copytree("work", "copy? #1")
    copied = run(work="copy? #1", checkpoints=str(tmp_path / "copy? #1" / "checkpoints"))
    assert executed(copied) == always()
    assert all(path.is_relative_to(tmp_path / "copy? #1") for path in copied.outputs.values())
    shutil.move("work", "renamed")
    renamed = run(work="renamed", checkpoints=str(tmp_path / "renamed" / "checkpoints"))
    assert executed(renamed) == always()
    assert all(path.is_relative_to(tmp_path / "renamed") and path.exists() for path in renamed.outputs.values())
    shutil.rmtree(tmp_path / "renamed" / "artifacts")
    assert "extract" in executed(run(work="renamed"))


def test_stages_leave_no_temporary_files(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    run()
    assert list(temporary.iterdir()) == []


DAMAGED = """
class MofeError(Exception): pass
def finetune(*paths, **parameters):
    raise MofeError("features.parquet is damaged; make the feature set again")
"""


def test_how_a_damaged_artifact_is_made_again_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "stand-ins" / "mofe" / "stages" / "finetune.py").write_text(DAMAGED)
    with pytest.raises(MofeError, match=r"make the feature set again \(remove its folder, and the next run makes it\)"):
        run()


LASTS = """
import os, signal, sys, time
from pathlib import Path
def end(*_):
    Path({told!r}).touch()
    sys.exit(143)
def {name}(*paths, **parameters):
    signal.signal(signal.SIGTERM, end)
    Path({begun!r}).write_text(str(os.getpid()))
    time.sleep(100)
"""


def is_alive(process: str) -> bool:
    state = Path("/proc", process, "stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("stage", ["finetune", "score"], ids=["alone", "in a loop"])
@pytest.mark.parametrize(
    ("how", "end"),
    [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt), (signal.SIGHUP, SystemExit)],
)
def test_a_run_that_is_stopped_lets_its_stage_end(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, stage: str, how: signal.Signals, end: type[BaseException]
) -> None:
    """Told by SIGTERM, the stage has the time for a checkpoint; and nothing of it stays behind."""
    begun, told = tmp_path / "begun", tmp_path / "told"
    code = LASTS.format(name=stage, begun=str(begun), told=str(told))
    (tmp_path / "stand-ins" / "mofe" / "stages" / f"{stage}.py").write_text(code)

    def stop() -> None:
        while not (begun.exists() and begun.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), how)

    before = signal.default_int_handler if how is signal.SIGINT else signal.SIG_DFL
    request.addfinalizer(partial(signal.signal, how, signal.signal(how, before)))  # the tests may run under nohup
    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(end):
        run()
    assert signal.getsignal(how) is before
    assert told.exists()
    for _ in range(100):  # its output ends a moment before it does
        if not is_alive(begun.read_text()):
            break
        time.sleep(0.05)
    assert not is_alive(begun.read_text())
    (record,) = (tmp_path / "work" / "logs").glob("*/run.json")
    assert "stopped" in json.loads(record.read_text())["failure"]


@pytest.mark.parametrize("stage", ["finetune", "score"], ids=["alone", "in a loop"])
def test_a_stage_that_does_not_end_is_killed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr("mofe.runners.processes.TIMEOUT", 0.5)
    begun = tmp_path / "begun"
    code = LASTS.format(name=stage, begun=str(begun), told="").replace("SIGTERM, end", "SIGTERM, signal.SIG_IGN")
    (tmp_path / "stand-ins" / "mofe" / "stages" / f"{stage}.py").write_text(code)

    def stop() -> None:
        while not (begun.exists() and begun.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SystemExit):
        run()
    assert not is_alive(begun.read_text())


def test_under_nohup_a_run_outlives_its_terminal(run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    standing_in = tmp_path / "stand-ins" / "mofe" / "stages" / "finetune.py"
    hang_up = f"import os, signal\nos.kill({os.getpid()}, signal.SIGHUP)\n"
    standing_in.write_text(hang_up + standing_in.read_text())
    request.addfinalizer(partial(signal.signal, signal.SIGHUP, signal.signal(signal.SIGHUP, signal.SIG_IGN)))
    assert executed(run()) == EVERYTHING


def test_a_default_that_is_given_changes_nothing(run: Run) -> None:
    run()
    given = {"top_k": 1, "warmup_epochs": 5.0, "evaluation_images_per_class": 0, "backbone_args": {"img_size": 224.0}}
    assert executed(run(**given)) == always()


def test_defaults_reach_the_stages_with_their_types(run: Run) -> None:
    made = next(e.outputs["model"] for e in run().executions if e.stage == "finetune")
    seen = ast.literal_eval(Path(made).read_text())
    expected = {
        "min_learning_rate": 1e-6,
        "probe_learning_rate": 1e-3,
        "top_k": 1,
        "fold_lambda": True,
        "mixup": "dynamic",
    }
    assert {name: seen[name] for name in expected} == expected
    assert {type(seen[name]) for name in ("top_k", "epochs", "batch_size")} == {int}


def test_data_is_read_before_the_first_long_stage(run: Run) -> None:
    order = [e.stage for e in run().executions]
    assert max(i for i, stage in enumerate(order) if stage == "prepare") < order.index("extract")


def test_num_experts_starts_at_partition(run: Run) -> None:
    run()
    assert executed(run(num_experts=3)) == always("check_classes", "partition", *BELOW_PARTITION, "evaluate")


def test_knn_k_starts_at_index(run: Run) -> None:
    run()
    assert executed(run(knn_k=9)) == always("index", *SCORES, "evaluate")


def test_a_text_model_starts_at_texts_and_retrains_nothing(run: Run) -> None:
    run()
    given = {"text_model": "ViT-B-16", "text_weights": "openai"}
    assert executed(run(**given)) == always("texts", "index", *SCORES, "evaluate")
    Path("prompts").write_text("one")
    run(**given, text_embeddings="prompts")
    Path("prompts").write_text("two")
    assert executed(run(**given, text_embeddings="prompts")) == always("texts", "index", *SCORES, "evaluate")


def test_another_image_behind_the_training_uri_starts_at_prepare(run: Run) -> None:
    run()
    Path("train").write_text("train with another image")
    assert executed(run()) == always(
        "prepare", "check_classes", "extract", "texts", "partition", *BELOW_PARTITION, "evaluate"
    )


def test_another_line_in_the_list_of_synsets_starts_at_prepare(run: Run) -> None:
    Path("synsets").write_text("cat,cat.n.01")
    run(synsets="synsets")
    Path("synsets").write_text("cat,cat.n.02")
    below = always("prepare", "check_classes", "extract", "texts", "partition", *BELOW_PARTITION, "evaluate")
    assert executed(run(synsets="synsets")) == below


def test_another_image_in_an_ood_set_touches_that_set_alone(run: Run) -> None:
    run()
    Path("far").write_text("far with another image")
    # extract waits for the data to be checked, but takes nothing from it
    assert executed(run()) == always("prepare:far", "score:far", "evaluate")


def test_edited_code_runs_its_stage_and_those_below(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    real = digests.stage_digest
    monkeypatch.setattr(digests, "stage_digest", lambda s, t: "0123456789ab" if s == "index" else real(s, t))
    assert executed(run()) == always("index", *SCORES, "evaluate")


def test_a_failure_names_stage_cause_and_log_and_the_next_run_goes_on(run: Run) -> None:
    Path("near").write_text("broken")
    with pytest.raises(MofeError) as failure:
        run()
    first, last = str(failure.value).splitlines()
    assert first.startswith("stage prepare (near) failed after")
    assert first.endswith("near is broken")
    log = Path(last.removeprefix("log: "))
    assert "Traceback" in log.read_text()
    assert len(list(log.parent.glob("*-prepare-near.log"))) == 1, "a person decides whether to try again"
    assert not list(log.parent.glob("*-prepare-far.log")), "the failure is told at once"
    Path("near").write_text("mended")
    mended = executed(run())
    assert "prepare" not in mended
    assert "prepare:id-test" not in mended
    assert {"prepare:near", "prepare:far", "extract", "evaluate"} <= set(mended)


def test_a_lost_output_is_made_again(run: Run) -> None:
    first = run()
    first.outputs["report"].unlink()
    assert executed(run()) == always("evaluate")


def test_two_runs_do_not_share_a_folder_at_once(run: Run, tmp_path: Path) -> None:
    import fcntl

    run()
    with (tmp_path / "work" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(MofeError, match="another run is using"):
            run()
