"""finetune: it learns, it repeats, it goes on after a kill, it leaves what it must leave, it says what is wrong."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file

from mofe.artifacts.model import History, ModelConfig
from mofe.errors import MofeError
from mofe.models import create_backbone, load_model
from mofe.storage.checksummed_json import with_checksum

Trained = Callable[..., SimpleNamespace]


def weights(paths: SimpleNamespace) -> dict[str, torch.Tensor]:
    return load_file(f"{paths.model}/model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


SHORT = {"epochs": 2, "probe_epochs": 2, "batch_size": 16}


def test_it_learns_what_can_be_learnt(trained: Trained) -> None:
    history = History.read(trained(epochs=8).history).epochs
    assert [e.epoch for e in history] == list(range(9))
    assert history[-1].validation_accuracy == 1.0
    assert history[-1].router_accuracy == 1.0
    assert history[-1].expert_loss < history[1].expert_loss
    for epoch in history:
        assert epoch.sigma == pytest.approx([max(0.05, 1 - 0.9 * s) for s in epoch.class_accuracy])


def test_the_history_has_the_rate_of_every_layer(trained: Trained) -> None:
    """Three blocks of which the last is the experts', layer decay 0.5; the cosine ends at the least rate."""
    options = {**SHORT, "layer_decay": 0.5, "learning_rate": 8e-3, "min_learning_rate": 8e-4}
    probe, _, last = History.read(trained(**options).history).epochs
    assert probe.layer_rates == {}
    assert last.layer_rates == pytest.approx({
        "stem": 5e-5, "block 1": 1e-4, "block 2": 2e-4, "block 3 of each expert": 4e-4, "router and heads": 8e-4,
    })  # fmt: skip


def test_a_model_whose_experts_learned_too_fast_is_refused(trained: Trained) -> None:
    """Models before schema 3 (docs/log.md, 2026-11-28)."""
    paths = trained(**SHORT)
    config = Path(paths.model) / "config.json"
    values = json.loads(config.read_text()) | {"schema_version": 2}
    config.write_bytes(with_checksum(values))
    with pytest.raises(MofeError, match=r"another version of mofe .*make the model again"):
        load_model(paths.model)


def test_the_linear_probe_leaves_backbone_and_experts_bitwise_unchanged(trained: Trained) -> None:
    paths = trained(epochs=0)
    model, config = load_model(paths.model)
    untouched = create_backbone(config.backbone).state_dict()
    for name, tensor in model.state_dict().items():
        if name.startswith("trunk."):
            assert torch.equal(tensor, untouched[name.removeprefix("trunk.")]), name
        elif name.startswith("experts."):
            assert torch.equal(tensor, untouched["blocks.2." + name.split(".", 3)[3]]), name
        elif name.startswith("norm."):
            assert torch.equal(tensor, untouched[name]), name
    assert History.read(paths.history).epochs[0].validation_accuracy > 0.7  # it is a probe of random features


def test_the_same_seed_gives_the_same_weights_whatever_the_workers(trained: Trained) -> None:
    options = {"augmentation": "randaugment", "drop_path": 0.2}
    first = weights(trained("a", **options))
    assert same(first, weights(trained("b", num_workers=2, **options)))
    assert not same(first, weights(trained("c", seed=1, **options)))


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 3},
        {"learning_rate": 5e-4},
        {"batch_size": 32},
        {"mixup": "none"},
        {"mixup": "fixed"},
        {"regulariser": "l2"},
        {"regulariser": "none"},
        {"layer_decay": 1.0},
        {"drop_path": 0.3},
        {"mixup_scale": 0.1},
        {"clip_norm": 0.01},
        {"augmentation": "crop"},
        {"min_learning_rate": 5e-4},
        {"warmup_epochs": 0.0},
        {"weight_decay": 0.9},
        {"probe_epochs": 3},
        {"probe_learning_rate": 0.1},
        {"validation_fraction": 0.3},
        {"micro_batch_size": 8},
        {"fold_lambda": False},
        {"negative_weight": 0.1},
        {"router": "class"},
        {"expert_init": "naive"},
    ],
    ids=str,
)
def test_every_parameter_is_used(trained: Trained, options: dict[str, object]) -> None:
    assert not same(weights(trained("a", **SHORT)), weights(trained("b", **{**SHORT, **options})))


@pytest.mark.parametrize(
    ("choice", "options"),
    [({"mixup": "fixed"}, {"mixup_sigma": 0.3}), ({"regulariser": "l2"}, {"regulariser_weight": 1e-3})],
    ids=str,
)
def test_every_parameter_of_a_choice_is_used(trained: Trained, choice: dict[str, Any], options: dict[str, Any]) -> None:
    start = {**SHORT, **choice}
    assert not same(weights(trained("a", **start)), weights(trained("b", **start, **options)))


def test_top_k_is_the_models(trained: Trained) -> None:
    model, _ = load_model(trained(**SHORT, top_k=2).model)
    assert model.top_k == 2


@pytest.mark.integration
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_as_if_it_had_not_been(trained: Trained, tmp_path: Path, how: signal.Signals) -> None:
    options = {"epochs": 6, "drop_path": 0.2, "augmentation": "crop-flip"}
    paths = trained("undisturbed", **options)
    place = tmp_path / "killed"
    inputs = [paths.images, paths.features, paths.partition]
    code = textwrap.dedent(f"""
        from mofe.stages.finetune import finetune
        finetune(*{inputs!r}, {str(place / "model")!r}, {str(place / "history")!r},
            probe_epochs=20, probe_learning_rate=0.01, batch_size=16, micro_batch_size=16, learning_rate=1e-3,
            warmup_epochs=0.5, num_workers=0, checkpoints={str(place / "checkpoints")!r}, **{options!r})
    """)
    command = [sys.executable, "-c", code]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process: see conftest.py
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread) as process:
        for _ in range(2400):  # until two epochs are on disk
            if len({p.name for p in (place / "checkpoints").glob("*/step-*")} - {"step-00001-0000000"}) >= 2:
                break
            time.sleep(0.05)
        os.kill(process.pid, how)
    assert process.returncode == (143 if how == signal.SIGTERM else -signal.SIGKILL)
    assert not (place / "model").exists()
    newest = max(p.name for p in (place / "checkpoints").glob("*/step-*"))
    if how == signal.SIGTERM:
        assert not newest.endswith("-0000000"), "it wrote one in the middle of an epoch, which has four steps"
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=one_thread)
    assert "resuming in epoch" in done.stdout
    assert same(weights(SimpleNamespace(model=place / "model")), weights(paths))
    assert len(list((place / "checkpoints").glob("*/step-*"))) == 2
    assert [e.epoch for e in History.read(place / "history").epochs] == list(range(7))


@pytest.mark.parametrize(
    ("batch_size", "step"), [(16, 6), (16, 8), (48, 4), (128, 2)],
    ids=["within an epoch", "at its end", "after the smaller last step", "where an epoch is one step"],
)  # fmt: skip
def test_told_to_end_after_any_step_it_goes_on_from_there(
    trained: Trained, tmp_path: Path, told_to_end: Callable[[int], Any], batch_size: int, step: int
) -> None:
    options = {"epochs": 3, "batch_size": batch_size, "drop_path": 0.2}
    undisturbed = trained("undisturbed", **options)
    with told_to_end(step):
        trained("told", checkpoints=str(tmp_path / "kept"), **options)
    told = trained("told", checkpoints=str(tmp_path / "kept"), **options)
    assert same(weights(told), weights(undisturbed))
    one, two = (
        [e.model_dump(exclude={"images_per_second"}) for e in History.read(paths.history).epochs]
        for paths in (undisturbed, told)
    )
    assert one == two


@pytest.mark.parametrize(
    ("mixup", "sigma"), [({"mixup": "fixed", "mixup_sigma": 0.3}, 0.3), ({"mixup": "none"}, 0.0)], ids=["fixed", "none"]
)
def test_the_history_has_the_sigma_that_mixup_drew_from(trained: Trained, mixup: dict[str, Any], sigma: float) -> None:
    assert {s for e in History.read(trained(**SHORT, **mixup).history).epochs for s in e.sigma} == {sigma}


def test_a_checkpoint_of_other_parameters_is_not_taken(trained: Trained, tmp_path: Path) -> None:
    trained("a", checkpoints=str(tmp_path / "kept"))
    for number, other in enumerate(({"seed": 5}, {"precision": "bf16"}), 2):
        fresh = weights(trained("b", **other))
        assert same(weights(trained("c", checkpoints=str(tmp_path / "kept"), **other)), fresh)
        assert len(list((tmp_path / "kept").iterdir())) == number


def test_a_training_that_came_to_its_end_begins_afresh(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or edited code would be given the model of the code before."""
    kept = {"epochs": 1, "checkpoints": str(tmp_path / "kept")}
    for run, resumes in (("", False), ("", False), ("run-1", False), ("run-1", True), ("run-2", False)):
        monkeypatch.setenv("KFP_RUN_ID", run)
        trained(run, **kept)
        assert ("resuming" in capsys.readouterr().out) == resumes, "another try of the same run only hands on its model"


def test_a_model_that_could_not_be_written_is_not_trained_again(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"epochs": 1, "checkpoints": str(tmp_path / "kept")}
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space left"):
        full.setattr("mofe.stages.finetune.save_model", Mock(side_effect=OSError(errno.ENOSPC, "No space left")))
        trained(**kept)
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    capsys.readouterr()
    trained(**kept)
    assert "resuming in epoch 2 after step 0" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_trained_over(
    trained: Trained, tmp_path: Path, told_to_end: Callable[[int], Any]
) -> None:
    kept = tmp_path / "kept"
    undisturbed = trained("undisturbed", epochs=3)
    with told_to_end(9):  # in the third epoch
        trained("told", epochs=3, checkpoints=str(kept))
    for newest in sorted(kept.glob("*/step-*"))[1:]:
        (newest / "checkpoint.json").write_text("")
    told = trained("told", epochs=3, checkpoints=str(kept))
    assert same(weights(told), weights(undisturbed))


def test_a_checkpoint_is_never_of_numbers_that_are_not_finite(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gradient may be infinite where the loss is not."""
    monkeypatch.setattr("mofe.training.loop.CHECKPOINT_MINUTES", 0.0)
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda parameters, _: [p.grad.mul_(torch.inf)
                        for p in parameters if p.grad is not None])  # fmt: skip
    with pytest.raises(MofeError, match=r"values that are not finite: try a lower learning_rate"):
        trained(checkpoints=str(tmp_path / "kept"))
    assert [p.name for p in (tmp_path / "kept").glob("*/*")] == ["step-00001-0000000"]


def test_accumulated_micro_batches_are_one_step_of_the_learning_rate(trained: Trained) -> None:
    history = History.read(trained(epochs=1, batch_size=32, micro_batch_size=8, warmup_epochs=0.0).history).epochs
    assert history[1].learning_rate == pytest.approx(1e-6)  # the cosine has reached its end


def test_a_loss_that_is_not_finite_stops_with_advice(trained: Trained) -> None:
    with pytest.raises(MofeError, match=r"not finite in epoch \d.*micro-batch \d+.*learning rate .*try a lower"):
        trained(
            learning_rate=9.0,
            warmup_epochs=0.0,
            epochs=30,
            clip_norm=0.0,
            mixup="none",
            regulariser="l2",
            regulariser_weight=1e30,
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [("mixup", "strong"), ("router", "oracle"), ("expert_init", "random"), ("negative_weight", -0.1),
     ("regulariser", "l3"), ("augmentation", "wild"), ("epochs", -1), ("learning_rate", 0.0),
     ("learning_rate", math.nan), ("layer_decay", 0.0), ("drop_path", 1.0), ("mixup_scale", 1.5),
     ("micro_batch_size", 0), ("validation_fraction", 0.0), ("regulariser_weight", 1.0), ("min_learning_rate", 1.0)],
)  # fmt: skip
def test_bad_parameters_are_refused_before_any_work(trained: Trained, name: str, value: object) -> None:
    with pytest.raises(
        MofeError, match=rf"{name} = .*(is not one of|must lie between|must be at least|must be a finite number)"
    ):
        trained(**{name: value})


@pytest.mark.parametrize(
    "clusters", [(0, 0, 0, 0), (0, 1, 2, 3), (0, 1, 1, 1)], ids=["one", "one-a-class", "one-alone"]
)
@pytest.mark.parametrize("router", ["cluster", "class"])
def test_any_number_of_experts_learns(trained: Trained, clusters: tuple[int, ...], router: str) -> None:
    history = History.read(trained(epochs=20, clusters=clusters, router=router, validation_fraction=0.2).history).epochs
    assert history[-1].validation_accuracy > 0.85  # chance is 0.25
    assert all(math.isfinite(e.loss) for e in history)
    if len(set(clusters)) == 1 and router == "cluster":
        assert history[-1].route_loss == 0


def test_bf16_learns_as_float32_does(trained: Trained) -> None:
    options = {"epochs": 8, "validation_fraction": 0.2}
    exact, rounded = (
        History.read(trained(name, precision=name, **options).history).epochs[-1] for name in ("fp32", "bf16")
    )
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=0.05)
    assert rounded.validation_accuracy > 0.85


def test_naive_experts_are_copies_of_a_naively_fine_tuned_backbone(trained: Trained, tmp_path: Path) -> None:
    """With no epochs after it, the MoFE is the naive model: every expert the same, none the backbone's own block."""
    paths = trained(epochs=1, expert_init="naive", checkpoints=str(tmp_path / "kept"), learning_rate=1e-12,
                    min_learning_rate=0.0, warmup_epochs=0.0)  # fmt: skip
    naive_steps = list((tmp_path / "kept").glob("*/naive/step-*"))
    assert len(naive_steps) == 2
    state = load_file(max(naive_steps) / "state.safetensors")
    for name, weight in weights(paths).items():
        if name.startswith("experts."):
            torch.testing.assert_close(weight, state["model.experts.0." + name.split(".", 2)[2]], atol=1e-6, rtol=0)
    history = History.read(paths.history).epochs
    assert [e.epoch for e in history] == [0, 1]


def test_the_config_says_how_to_make_it_again(trained: Trained) -> None:
    config = ModelConfig.read(trained(epochs=1).model)
    assert config.training["epochs"] == 1
    assert config.backbone.preprocessing.image_size == 16
    assert config.partition.expert_of_class == (0, 1, 0, 1)
