"""Published names called with wrong arguments: whatever they are given, they answer, or raise MofeError."""

import io
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from helpers import TINY, make_partition, striped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

import mofe
from mofe import MofeError, load_detector
from mofe.artifacts.recipe import Recipe
from mofe.detection import ExpertKNN, ood_metrics, scores
from mofe.detection.bootstrap import bootstrap_intervals, resample_metrics
from mofe.detection.conformal import conformal_p_values
from mofe.detection.metrics import check_scores, kept_at_tpr, roc_points, threshold_at_tpr
from mofe.detection.threshold import chosen_threshold
from mofe.inference.detect import detect
from mofe.models import MoFE, create_backbone, describe_backbone, load_model, save_model
from mofe.partitioning import ensure_wordnet, partition_classes, resolve_synsets, supercategories
from mofe.training import DynamicBetaMixup, expert_loss, route_loss

NAME = "vit_tiny_patch16_224"
RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(6, 4)).astype(np.float32)
BANK = ExpertKNN.build(EMBEDDINGS, np.array([0, 0, 0, 1, 1, 1]), 2)
MIXUP = DynamicBetaMixup(3, 0.5)
LOGITS = torch.randn(4, 3)
RECIPE = Recipe()
SPEC = describe_backbone(NAME, TINY, "random")
BACKBONE = timm.create_model(NAME, num_classes=0, **TINY)
MODEL = MoFE(BACKBONE, make_partition([0, 1, 0, 1])).eval()
SYNSETS = ["dog.n.01", "cat.n.01", "car.n.01"]

CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "msp": (scores.msp, {"logits": LOGITS, "others": torch.randn(4), "temperature": 1.0}),
    "max_logit": (scores.max_logit, {"logits": LOGITS}),
    "energy": (scores.energy, {"logits": LOGITS, "temperature": 2.0}),
    "negative_entropy": (scores.negative_entropy, {"logits": LOGITS}),
    "generalised_entropy": (scores.generalised_entropy, {"logits": LOGITS, "gamma": 0.1, "top": 2}),
    "ood_metrics": (ood_metrics, {"id_scores": [1.0, 2.0], "ood_scores": [0.0, 1.5]}),
    "roc_points": (roc_points, {"id_scores": [1.0, 2.0], "ood_scores": [0.0, 1.5], "most": 5}),
    "threshold_at_tpr": (threshold_at_tpr, {"id_scores": [1.0, 2.0], "tpr": 0.9}),
    "kept_at_tpr": (kept_at_tpr, {"count": 20, "tpr": 0.95}),
    "check_scores": (check_scores, {"scores": [1.0], "side": "ID"}),
    "bootstrap_intervals": (
        bootstrap_intervals,
        {"id_scores": [1.0, 2.0], "ood_scores": [0.0], "resamples": 3, "confidence": 0.9, "seed": 0},
    ),
    "resample_metrics": (resample_metrics, {"id_scores": [1.0], "ood_scores": [0.0], "resamples": 3, "seed": 0}),
    "conformal_p_values": (conformal_p_values, {"scores_B": [0.5], "validation_n": [0.1, 0.9]}),
    "chosen_threshold": (chosen_threshold, {"choice": "fpr=0.5", "validation_n": [0.1], "unknown_m": [0.0]}),
    "ExpertKNN.build": (ExpertKNN.build, {"embeddings_ND": EMBEDDINGS, "experts_N": np.arange(6) // 3, "k": 2}),
    "ExpertKNN.score": (BANK.score, {"embeddings_BD": EMBEDDINGS, "experts_B": np.arange(6) // 3}),
    "ExpertKNN.search": (BANK.search, {"embeddings_BD": EMBEDDINGS, "experts_B": np.arange(6) // 3, "n": 2}),
    "ExpertKNN.load": (ExpertKNN.load, {"folder": "none"}),
    "DynamicBetaMixup": (DynamicBetaMixup, {"num_classes": 3, "scale": 0.5, "generator": None}),
    "DynamicBetaMixup.update": (MIXUP.update, {"accuracy_C": [0.0, 0.5, 1.0]}),
    "DynamicBetaMixup.sample": (MIXUP.sample, {"labels_B": torch.tensor([0, 1])}),
    "DynamicBetaMixup.partners": (MIXUP.partners, {"labels_B": torch.tensor([0, 1])}),
    "DynamicBetaMixup.__call__": (MIXUP, {"images": torch.rand(2, 3, 4, 4), "labels_B": torch.tensor([0, 1])}),
    "route_loss": (route_loss, {"router_logits_BE": LOGITS, "targets_BE": LOGITS.softmax(dim=1)}),
    "expert_loss": (
        expert_loss,
        {"logits_PQ": LOGITS, "targets_PQ": LOGITS.softmax(dim=1), "weight_P": torch.ones(4)},
    ),
    "MoFE": (
        MoFE,
        {"backbone": BACKBONE, "partition": make_partition([0, 1]), "depth": 1, "top_k": 1, "router": "class"},
    ),
    "MoFE.forward": (MODEL, {"images": torch.rand(2, 3, 16, 16), "expert_B": torch.tensor([0, 1])}),
    "describe_backbone": (
        describe_backbone,
        {"name": NAME, "args": TINY, "weights": "random", "weights_digest": "", "depth": 1},
    ),
    "create_backbone": (create_backbone, {"spec": SPEC, "drop_path": 0.1}),
    "load_model": (load_model, {"uri": "none"}),
    "save_model": (save_model, {"folder": "none", "model": None, "config": None}),
    "load_detector": (load_detector, {"uri": "none"}),
    "partition_classes": (
        partition_classes,
        {
            "prototypes_CD": EMBEDDINGS,
            "synsets": [None] * 6,
            "num_experts": 2,
            "strategy": "kmeans++",
            "classes": list("abcdef"),
            "seed": 0,
        },
    ),
    "supercategories": (supercategories, {"synsets": SYNSETS, "num_experts": 2}),
    "resolve_synsets": (resolve_synsets, {"classes": ["dog", "cat", "car"], "synsets": SYNSETS}),
    "Recipe": (Recipe, {name: value for name, value in RECIPE.to_dict().items()}),
    "Recipe.shares": (RECIPE.shares, {"processes": 1}),
}
"""Published functions, and arguments that they take."""
PLAIN = {"Detector", "MofeError", "Supercategory", "Mixed", "MoFEOutput", "OODMetrics", "STRATEGIES", "scores"}
"""Names that are called above by their parts, or are not called."""

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=5),
    st.sampled_from(["", "\0", "../x", "a://b", "tpr=2", "fpr=-1", "nan", "dog.n.01", "n00000000", "hf-hub:", "s"]),
    st.binary(max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.lists(st.one_of(st.none(), st.integers(-3, 9), st.floats(), st.text(max_size=3)), max_size=4),
    st.lists(st.lists(st.floats(-9, 9), max_size=3), max_size=3),
    arrays(np.float64, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)),
    arrays(st.sampled_from([np.int64, np.uint8, np.bool_, np.complex64, np.float16]), array_shapes(max_side=3)),
    arrays(np.float32, array_shapes(min_side=0, max_side=4)).map(torch.from_numpy),
    arrays(np.int64, array_shapes(min_side=0, max_side=4)).map(torch.from_numpy),
    st.sampled_from([object(), int, len, BACKBONE, SPEC, MIXUP, ..., np.nan, Path("x"), make_partition([0, 1]), 1j]),
)
"""What no one should pass, and what someone will."""


def answered(call: Callable[[], Any]) -> Any:
    """The answer, or None after a MofeError that says something; every other exception is a failure."""
    try:
        found = call()
        return list(found) if isinstance(found, Iterator) else found
    except MofeError as error:
        assert str(error)
        return None


def test_the_error_is_a_value_error() -> None:
    assert issubclass(MofeError, ValueError)


def published_names() -> Iterator[str]:
    for package in ("mofe", "mofe.partitioning", "mofe.models", "mofe.training", "mofe.detection"):
        yield from import_module(package).__all__
    yield from (name for name, found in vars(scores).items() if getattr(found, "__module__", "") == scores.__name__)


def test_every_published_name_is_called_here() -> None:
    called = {name.partition(".")[0] for name in CALLS} | PLAIN | {"ensure_wordnet"}
    assert {name for name in published_names() if not name.startswith("_")} <= called


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_right_before_they_are_made_wrong(name: str) -> None:
    function, arguments = CALLS[name]
    if name in ("ExpertKNN.load", "load_model", "save_model", "load_detector"):
        with pytest.raises(MofeError):
            function(**arguments)
    else:
        function(**arguments)


@pytest.mark.parametrize("name", CALLS)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_wrong_argument_raises_nothing_but_the_one_error(name: str, data: st.DataObject) -> None:
    function, arguments = CALLS[name]
    wrong = data.draw(st.sets(st.sampled_from(sorted(arguments)), min_size=1, max_size=2))
    given_junk = {argument: data.draw(JUNK, label=argument) for argument in sorted(wrong)}
    answered(lambda: function(**{**arguments, **given_junk}))


@pytest.mark.filterwarnings("ignore")
def test_a_detector_answers_whatever_it_is_asked(detector: SimpleNamespace) -> None:
    loaded = load_detector(detector.detector)
    image = striped(0, RNG)
    right = loaded.score(image)
    calls: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "score": (loaded.score, {"images": [image], "scores": (), "neighbours": 0, "batch_size": 2}),
        "p_values": (loaded.p_values, {"scores": right, "score": "knn"}),
        "detect": (
            detect,
            {
                "detector": loaded,
                "places": [],
                "threshold": "tpr=0.95",
                "unknown": (),
                "score": "knn",
                "neighbours": 0,
                "batch_size": 4,
            },
        ),
    }

    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def ask(data: st.DataObject) -> None:
        function, arguments = calls[data.draw(st.sampled_from(sorted(calls)))]
        wrong = data.draw(st.sampled_from(sorted(arguments)))
        answered(lambda: function(**{**arguments, wrong: data.draw(JUNK, label=wrong)}))

    ask()


def test_images_come_in_more_forms(detector: SimpleNamespace, tmp_path: Path) -> None:
    loaded = load_detector(detector.detector)
    content = striped(1, RNG)
    (tmp_path / "a.png").write_bytes(content)
    expected = loaded.score(content).values["knn"]
    with (tmp_path / "a.png").open("rb") as file:
        assert loaded.score(file).values["knn"] == expected
    for form in (io.BytesIO(content), bytearray(content), memoryview(content)):
        assert loaded.score(form).values["knn"] == expected
    grey = np.asarray(Image.open(io.BytesIO(content)).convert("L"))
    one = loaded.score(grey).values["knn"]
    assert loaded.score(grey[..., None]).values["knn"] == one
    np.testing.assert_allclose(loaded.score(np.stack([grey] * 5)).values["knn"], [one[0]] * 5, atol=1e-5)


def test_a_detector_takes_a_number_as_threshold_and_one_folder_of_unknown_images(
    detector: SimpleNamespace, tmp_path: Path
) -> None:
    loaded = load_detector(detector.detector)
    (tmp_path / "some").mkdir()
    for i in range(3):
        (tmp_path / "some" / f"{i}.png").write_bytes(striped(i, RNG))
    place = str(tmp_path / "some")
    assert [p.known for p in detect(loaded, place, threshold=-3)] == [True] * 3
    assert [p.known for p in detect(loaded, place, threshold=0.5)] == [False] * 3
    assert len(list(detect(loaded, [place], threshold="fpr=0.5", unknown=place))) == 3
    with pytest.raises(MofeError, match=r"places must hold paths or URIs, not a Image: images in memory are scored"):
        list(detect(loaded, [Image.new("RGB", (8, 8))]))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(MofeError, match=r"embeddings of shape \(0, 8\) make no bank"):
        ExpertKNN.build(np.empty((0, 8)), np.empty(0, int), 3)
    with pytest.raises(MofeError, match=r"logits must be a tensor, not a ndarray of shape \(2, 2\)"):
        scores.msp(np.ones((2, 2)))  # type: ignore[arg-type]
    with pytest.raises(MofeError, match=r"ID scores must be an array of numbers, not 'high'"):
        ood_metrics("high", [1.0])
    with pytest.raises(MofeError, match="expected a path or URI, not 5"):
        mofe.load_detector(5)  # type: ignore[arg-type]
    with pytest.raises(MofeError, match="synsets must be a list of texts, not 'dog'"):
        supercategories("dog", 1)
    with pytest.raises(MofeError, match=re.escape("labels must lie between 0 and 2")):
        MIXUP.sample(torch.tensor([3]))
    with pytest.raises(MofeError, match="there must be as many classes as synsets, not 2 classes, 1 synsets"):
        resolve_synsets(["a", "b"], [None])
    with pytest.raises(MofeError, match="k = nan must be a whole number"):
        ExpertKNN.build(EMBEDDINGS, None, float("nan"))  # type: ignore[arg-type]


def test_indexes_are_written_to_a_folder_or_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below", 5, None, "\0"):
        with pytest.raises(MofeError):
            BANK.save(wrong)  # type: ignore[arg-type]


def test_a_rank_beyond_every_bank_takes_the_farthest() -> None:
    far = ExpertKNN.build(EMBEDDINGS, None, 10**12)
    near = ExpertKNN.build(EMBEDDINGS, None, 6)
    np.testing.assert_array_equal(far.score(EMBEDDINGS, np.zeros(6, int)), near.score(EMBEDDINGS, np.zeros(6, int)))


def test_wordnet_is_found_or_refused() -> None:
    assert ensure_wordnet(download=False).exists()
