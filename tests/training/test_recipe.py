"""How a step's images are shared among processes and micro-batches."""

import math
import re
from dataclasses import replace

import pytest

from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError

PAPERS = Recipe(
    epochs=40, probe_epochs=3, probe_learning_rate=1e-3, batch_size=1024, micro_batch_size=128, learning_rate=1e-4,
    min_learning_rate=1e-6, warmup_epochs=5.0, weight_decay=0.05, layer_decay=0.75, drop_path=0.1, clip_norm=1.0,
    augmentation="randaugment", mixup="dynamic", mixup_scale=0.9, mixup_sigma=1.0, fold_lambda=True,
    regulariser="label-smoothing", regulariser_weight=0.1, negative_weight=1.0, router="cluster",
    expert_init="backbone", validation_fraction=0.05, seed=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "shares"),
    [
        (1024, 128, 1, (128, 8)), (1024, 128, 8, (128, 1)), (1024, 128, 16, (64, 1)), (1024, 128, 32, (32, 1)),
        (1000, 128, 1, (125, 8)), (200, 128, 1, (100, 2)), (768, 128, 3, (128, 2)), (64, 64, 1, (64, 1)),
        (16, 32, 1, (16, 1)), (1, 1, 1, (1, 1)),
    ],
)  # fmt: skip
def test_a_step_has_as_many_images_as_were_asked_for(
    batch: int, micro: int, processes: int, shares: tuple[int, int]
) -> None:
    found = replace(PAPERS, batch_size=batch, micro_batch_size=micro).shares(processes)
    assert found == shares
    assert found[0] * found[1] * processes == batch


@pytest.mark.parametrize(("batch", "micro", "processes"), [(1024, 128, 3), (4, 4, 8), (1018, 128, 1)])
def test_what_cannot_be_shared_evenly_is_refused(batch: int, micro: int, processes: int) -> None:
    with pytest.raises(MofeError, match=f"batch_size = {batch} cannot be divided evenly among {processes} processes"):
        replace(PAPERS, batch_size=batch, micro_batch_size=micro).shares(processes)


NO_LIMIT = float("inf")
LIMITS = {
    "epochs": (0, NO_LIMIT), "probe_epochs": (0, NO_LIMIT), "warmup_epochs": (0.0, NO_LIMIT),
    "weight_decay": (0.0, NO_LIMIT), "clip_norm": (0.0, NO_LIMIT), "negative_weight": (0.0, NO_LIMIT),
    "learning_rate": (1e-12, 10.0), "probe_learning_rate": (1e-12, 10.0), "batch_size": (1, 1 << 20),
    "micro_batch_size": (1, 1 << 20), "layer_decay": (1e-6, 1.0), "drop_path": (0.0, 0.99), "mixup_scale": (0.0, 1.0),
    "mixup_sigma": (0.05, 100.0), "validation_fraction": (1e-6, 0.5), "seed": (0, 2**32 - 1),
}  # fmt: skip
"""What a parameter means sets its limits: a rate is positive, a share lies in [0, 1], a seed has 32 bits."""


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_allowed_and_nothing_beyond_them(name: str) -> None:
    least, most = LIMITS[name]
    start = replace(PAPERS, min_learning_rate=0.0, epochs=10**7 if name == "warmup_epochs" else 40)
    assert getattr(replace(start, **{name: least}), name) == least
    below = least - 1 if isinstance(least, int) else least / 2 if least else -1e-9
    allowed = "must be at least 0" if most == NO_LIMIT else "must lie between "
    beyond = [below, float("nan"), float("inf")]
    if most == NO_LIMIT:
        assert getattr(replace(start, **{name: 10**6}), name) == 10**6
    else:
        assert getattr(replace(start, **{name: most}), name) == most
        beyond.append(most + 1 if isinstance(most, int) else most * 1.001)
    for value in beyond:
        said = allowed if math.isfinite(value) else "must be a finite number"
        with pytest.raises(MofeError, match=re.escape(f"{name} = {value} {said}")) as refused:
            replace(start, **{name: value})
        if said == "must lie between ":
            assert [float(word) for word in str(refused.value).partition(said)[2].split(" and ")] == [least, most]


def test_training_outlasts_the_warm_up() -> None:
    for epochs, warmup in ((40, 39.9), (1, 0.5), (1, 0.0), (0, 5.0)):
        assert replace(PAPERS, epochs=epochs, warmup_epochs=warmup).warmup_epochs == warmup, (
            "without epochs, no warm-up"
        )
    for epochs, warmup, said in ((5, 5.0, "5"), (3, 5.0, "5"), (1, 1.5, "1.5")):
        message = f"warmup_epochs = {said} must be less than epochs = {epochs}, because training would end before"
        with pytest.raises(MofeError, match=re.escape(message)):
            replace(PAPERS, epochs=epochs, warmup_epochs=warmup)


def test_the_cosine_ends_between_zero_and_its_peak() -> None:
    for allowed in (0.0, 1e-4):
        assert replace(PAPERS, learning_rate=1e-4, min_learning_rate=allowed).min_learning_rate == allowed
    for refused, allowed in ((-1e-9, "be at least 0"), (1.001e-4, "lie between 0 and 0.0001")):
        with pytest.raises(MofeError, match=re.escape(f"min_learning_rate = {refused} must {allowed}")):
            replace(PAPERS, learning_rate=1e-4, min_learning_rate=refused)


def test_not_the_whole_label_is_smoothed_away_but_a_norm_has_any_weight() -> None:
    assert replace(PAPERS, regulariser_weight=0.99).regulariser_weight == 0.99
    with pytest.raises(MofeError, match=r"regulariser_weight = 0\.991 must lie between 0 and 0\.99"):
        replace(PAPERS, regulariser_weight=0.991)
    for regulariser in ("l2", "none"):
        assert replace(PAPERS, regulariser=regulariser, regulariser_weight=7.0).regulariser_weight == 7.0
        with pytest.raises(MofeError, match=r"regulariser_weight = -1\.0 must be at least 0"):
            replace(PAPERS, regulariser=regulariser, regulariser_weight=-1.0)


@pytest.mark.parametrize(
    ("name", "choices"),
    [("mixup", "dynamic, fixed, none"), ("regulariser", "label-smoothing, l2, none"), ("router", "cluster, class"),
     ("expert_init", "backbone, naive"), ("augmentation", "randaugment, crop-flip, crop, none")],
)  # fmt: skip
def test_a_choice_is_one_of_those_that_are_documented(name: str, choices: str) -> None:
    for choice in choices.split(", "):
        assert getattr(replace(PAPERS, **{name: choice}), name) == choice
    with pytest.raises(MofeError, match=f"^{name} = 'other' is not one of {choices}$"):
        replace(PAPERS, **{name: "other"})


def test_naive_fine_tuning_has_no_mixup_and_labels_smoothed_by_a_tenth() -> None:
    """What the finetune stage documents of ``expert_init``; all else is as it was."""
    other = replace(PAPERS, regulariser="l2", regulariser_weight=3.0, router="class", expert_init="naive", seed=9)
    found, before = other.naive().to_dict(), other.to_dict()
    changed = {name: value for name, value in found.items() if value != before[name]}
    assert changed == {
        "mixup": "none", "regulariser": "label-smoothing", "regulariser_weight": 0.1, "router": "cluster",
        "expert_init": "backbone",
    }  # fmt: skip
    assert Recipe(**found) == other.naive()
