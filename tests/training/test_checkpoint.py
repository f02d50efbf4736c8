"""Checkpoints: what is loaded is what was saved, the last two are kept, a damaged one is passed over."""

import json
import uuid
from pathlib import Path

import pytest
import torch
from torch import nn
from upath import UPath

from mofe.errors import MofeError
from mofe.storage import locations
from mofe.training.checkpoint import (
    END,
    MANIFEST,
    STATE,
    load_checkpoint,
    note_model_written,
    remove_if_model_written,
    save_checkpoint,
)


def trained(seed: int, width: int = 3) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model and its optimiser after two steps."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, width), nn.Linear(width, 2))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        optimiser.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        optimiser.step()
    return model, optimiser


def state_of(model: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, list[float]]:
    values = {name: w.tolist() for name, w in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        values |= {f"{index}.{name}": value.tolist() for name, value in state.items()}
    return values


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    local = request.param == "folder"
    return locations.resolve(tmp_path / "kept" if local else f"memory://kept-{uuid.uuid4().hex}/run")


def names(place: UPath) -> list[str]:
    return sorted(path.name for path in locations.children(place, "*"))


def test_model_optimiser_and_progress_are_loaded_as_they_were_saved(place: UPath) -> None:
    model, optimiser = trained(0)
    save_checkpoint(place, model, optimiser, {"epoch": 3, "step": 12, "sums": [0.5, 1.5], "history": []})
    assert names(place) == ["step-00003-0000012"]
    other, its_optimiser = trained(1)
    assert state_of(other, its_optimiser) != state_of(model, optimiser)
    found = load_checkpoint(place, other, its_optimiser)
    assert found is not None
    assert {name: found[name] for name in ("epoch", "step", "sums", "history")} == {
        "epoch": 3, "step": 12, "sums": [0.5, 1.5], "history": [],
    }  # fmt: skip
    assert state_of(other, its_optimiser) == state_of(model, optimiser)
    # and both go on alike
    for of_model, of_optimiser in ((model, optimiser), (other, its_optimiser)):
        of_optimiser.zero_grad()
        of_model(torch.ones(1, 4)).sum().backward()
        of_optimiser.step()
    assert state_of(other, its_optimiser) == state_of(model, optimiser)


def test_without_a_checkpoint_nothing_is_loaded(place: UPath) -> None:
    model, optimiser = trained(0)
    before = state_of(model, optimiser)
    assert load_checkpoint(place, model, optimiser) is None
    assert state_of(model, optimiser) == before


def test_the_last_two_are_kept_and_the_newest_is_loaded(place: UPath) -> None:
    model, optimiser = trained(0)
    for epoch, step in ((1, 0), (2, 9), (2, 10), (10, 0)):
        save_checkpoint(place, model, optimiser, {"epoch": epoch, "step": step})
    assert names(place) == ["step-00002-0000010", "step-00010-0000000"]
    found = load_checkpoint(place, model, optimiser)
    assert found is not None
    assert (found["epoch"], found["step"]) == (10, 0)


def damage(checkpoint: UPath, how: str) -> None:
    if how == "a changed tensor":
        content = (checkpoint / STATE).read_bytes()
        (checkpoint / STATE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif how == "no tensors":
        (checkpoint / STATE).unlink()
    elif how == "no manifest":
        (checkpoint / MANIFEST).unlink()
    elif how == "no JSON":
        (checkpoint / MANIFEST).write_bytes(b"{")
    else:  # one byte of what the manifest says
        (checkpoint / MANIFEST).write_bytes((checkpoint / MANIFEST).read_bytes().replace(b'"step": 7', b'"step": 8'))


@pytest.mark.parametrize(
    "how", ["a changed tensor", "no tensors", "no manifest", "no JSON", "a changed progress"], ids=str
)
def test_of_two_of_which_the_newer_is_damaged_the_older_is_loaded(
    place: UPath, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (older, its), (newer, of_newer) = trained(0), trained(1)
    save_checkpoint(place, older, its, {"epoch": 1, "step": 6})
    save_checkpoint(place, newer, of_newer, {"epoch": 1, "step": 7})
    damage(place / "step-00001-0000007", how)
    model, optimiser = trained(2)
    found = load_checkpoint(place, model, optimiser)
    assert found is not None
    assert found["step"] == 6
    assert state_of(model, optimiser) == state_of(older, its)
    said = "step-00001-0000007 is damaged: looking for an earlier one" in capsys.readouterr().out
    assert said == (how != "no manifest"), "one without a manifest was never whole"
    damage(place / "step-00001-0000006", "no JSON")
    assert load_checkpoint(place, model, optimiser) is None


def test_a_damaged_one_is_written_over(place: UPath) -> None:
    model, optimiser = trained(0)
    save_checkpoint(place, model, optimiser, {"epoch": 1, "step": 7})
    damage(place / "step-00001-0000007", "a changed tensor")
    save_checkpoint(place, model, optimiser, {"epoch": 1, "step": 7})
    assert load_checkpoint(place, *trained(1)) is not None


def test_a_checkpoint_that_the_store_does_not_remove_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("denied")

    place = locations.resolve(f"memory://kept-{uuid.uuid4().hex}/run")
    monkeypatch.setattr(type(place.fs), "rm", refuse)
    with pytest.raises(MofeError, match=rf"refuses access to the checkpoint at {place}/step-00001-0000007: denied"):
        save_checkpoint(place, *trained(0), {"epoch": 1, "step": 7})


def test_a_checkpoint_of_another_model_is_refused(place: UPath) -> None:
    save_checkpoint(place, *trained(0), {"epoch": 1, "step": 0})
    with pytest.raises(
        MofeError, match=r"checkpoint .*step-00001-0000000 belongs to another model: remove it to start"
    ):
        load_checkpoint(place, *trained(0, width=4))


def test_what_is_written_is_plain_tensors_and_json(tmp_path: Path) -> None:
    model, optimiser = trained(0)
    save_checkpoint(locations.resolve(tmp_path), model, optimiser, {"epoch": 1, "step": 0})
    (checkpoint,) = tmp_path.iterdir()
    assert sorted(file.name for file in checkpoint.iterdir()) == ["checkpoint.json", "state.safetensors"]
    assert json.loads((checkpoint / MANIFEST).read_text())["epoch"] == 1


@pytest.mark.parametrize(
    ("wrote", "asks", "forgotten"),
    [("run-1", "run-1", False), ("run-1", "run-2", True), ("run-1", None, True), (None, None, True),
     (None, "run-1", True)],
)  # fmt: skip
def test_checkpoints_of_a_model_that_was_written_are_for_another_try_of_the_same_run(
    place: UPath, wrote: str | None, asks: str | None, forgotten: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(place, *trained(0), {"epoch": 1, "step": 0})
    for run, act in ((wrote, note_model_written), (asks, remove_if_model_written)):
        monkeypatch.delenv("KFP_RUN_ID", raising=False)
        if run:
            monkeypatch.setenv("KFP_RUN_ID", run)
        act(place)
    assert names(place) == ([] if forgotten else [END, "step-00001-0000000"])


def test_a_note_that_is_no_text_is_not_of_this_run(place: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(place, *trained(0), {"epoch": 1, "step": 0})
    (place / END).write_bytes(b"run-\xff")
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    remove_if_model_written(place)
    assert names(place) == []


def test_checkpoints_of_a_training_that_did_not_end_are_never_forgotten(
    place: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(place, *trained(0), {"epoch": 1, "step": 0})
    for run in ("", "run-1"):
        monkeypatch.setenv("KFP_RUN_ID", run)
        remove_if_model_written(place)
    assert names(place) == ["step-00001-0000000"]
