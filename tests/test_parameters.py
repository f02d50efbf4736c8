"""Every parameter of every pipeline and every number of the command line: what cannot be meant is refused first."""

import math
from pathlib import Path
from typing import Any

import pytest
from helpers import command_line
from hypothesis import given, settings
from hypothesis import strategies as st

from mofe.artifacts.recipe import Recipe
from mofe.errors import MofeError
from mofe.parameters.file import check_parameters, pipeline_parameters
from mofe.parameters.rules import RULES, check_values
from mofe.runners.digests import compiled_pipeline

PIPELINES = ("mofe", "sharded", "tables", "detect")
KNOWN = {name: pipeline_parameters(compiled_pipeline(f"{name}.yaml")) for name in PIPELINES}
LEAST: dict[str, dict[str, Any]] = {
    "mofe": {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]},
    "sharded": {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]},
    "tables": {"train_data": "a", "test_data": "b", "ood_data": [{"dataset": "c", "uri": "d"}]},
    "detect": {"images": ["a"], "detector": "b"},
}
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


def outside(low: float, high: float, whole: bool = True) -> st.SearchStrategy[Any]:
    if whole:
        return st.integers(max_value=int(low) - 1) | st.integers(min_value=int(high) + 1)
    below = st.floats(max_value=low, exclude_max=True, allow_nan=False)
    return below | st.floats(min_value=high, exclude_min=True, allow_nan=False) | NOT_FINITE


def below(low: float, whole: bool = True) -> st.SearchStrategy[Any]:
    return st.integers(max_value=int(low) - 1) if whole else st.floats(max_value=low, exclude_max=True) | NOT_FINITE


def words(*good: str) -> st.SearchStrategy[str]:
    return st.text(max_size=20).filter(lambda text: text not in good)


SIZE = st.integers(1, 1 << 20)
FRACTION = st.floats(0, 1)
TOLERATION = {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}
BAD: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("train_data", "test_data", "detector"), st.sampled_from(["", " ", "\n\t", "a\0b"])),
    "backbone": st.sampled_from(["", " ", "\n\t"]),
    **dict.fromkeys(("synsets", "checkpoints"), st.just("a\0b")),
    "ood_data": st.sampled_from([
        [], ["a"], [{}], [{"dataset": "a"}], [{"dataset": "a", "uri": "b", "url": "c"}],
        [{"dataset": "a", "uri": "b", "kind": "odd"}],
        [{"dataset": "a b", "uri": "c"}],
        [{"dataset": "train", "uri": "c"}], [{"dataset": "a", "uri": ""}], [{"dataset": "a", "uri": 3}],
        [{"dataset": "a", "uri": "b"}, {"dataset": "a", "uri": "c"}],
    ]),
    **dict.fromkeys(("train_images_per_class", "evaluation_images_per_class", "knn_k"), below(0)),
    **dict.fromkeys(("mofe_depth", "num_experts", "top_k", "num_nodes", "shards"), below(1)),
    **dict.fromkeys(("epochs", "probe_epochs", "neighbours", "num_workers"), below(0)),
    **dict.fromkeys(("batch_size", "micro_batch_size", "inference_batch_size"), outside(1, 1 << 20)),
    **dict.fromkeys(("accelerators", "train_accelerators"), outside(0, 64)),
    "seed": outside(0, 2**32 - 1),
    "max_rejected": outside(0, 1, whole=False),
    **dict.fromkeys(("learning_rate", "probe_learning_rate"), outside(1e-12, 10, whole=False)),
    "min_learning_rate": outside(0, 1e-4, whole=False),
    **dict.fromkeys(("warmup_epochs", "weight_decay", "clip_norm", "negative_weight"), below(0, whole=False)),
    "layer_decay": outside(1e-6, 1, whole=False),
    "drop_path": outside(0, 0.99, whole=False),
    "mixup_scale": outside(0, 1, whole=False),
    "mixup_sigma": outside(0.05, 100, whole=False),
    "regulariser_weight": outside(0, 0.99, whole=False),
    "validation_fraction": outside(1e-6, 0.5, whole=False),
    "strategy": words("wordnet-kmeans", "taxonomy", "self-learning", "kmeans++", "random"),
    "augmentation": words("randaugment", "crop-flip", "crop", "none"),
    "mixup": words("dynamic", "fixed", "none"),
    "regulariser": words("label-smoothing", "l2", "none"),
    "router": words("cluster", "class"),
    "expert_init": words("backbone", "naive"),
    "bank": words("expert", "global"),
    "precision": words("auto", "bf16", "fp32"),
    "weights": st.sampled_from(["model.pkl", "model", "randon", "model.safetensors.zip"]),
    "backbone_args": st.sampled_from([{3: 4}, {None: 1}]),
    **dict.fromkeys(("text_model", "text_weights"), st.just("a\0b")),
    "text_templates": st.sampled_from([[], [""], ["a photo"], ["a {}", "of it"], [3]]),
    "text_negatives": st.integers(max_value=-1) | st.integers(1, 99),
    "text_embeddings": st.sampled_from(["a.pt", "a"]),
    "accelerator": st.sampled_from(["", "a b", "nvidia.com/", "-gpu"]),
    "cpu": st.sampled_from(["", "-1", "8 CPUs", "8Gi", "1e3", "half"]),
    "memory": st.sampled_from(["", "-1Gi", "32GB", "32 Gi", "1.5.Gi", "much"]),
    "credentials": st.sampled_from(["", "Secret", "a_b", "-a", "a" * 254]),
    "node_selector": st.sampled_from([{"pool": 3}, {3: "a"}, {"pool": "a b"}, {"": "a"}, {"pool": "a" * 64}]),
    "node_resources": st.sampled_from([{"nvidia.com/gpu": -1}, {"nvidia.com/gpu": "many"}, {"cpu": True}, {3: 3}]),
    "tolerations": st.sampled_from([
        ["gpu"], [{"Key": "gpu"}], [{**TOLERATION, "operator": "Has"}], [{**TOLERATION, "effect": "Never"}],
        [{**TOLERATION, "tolerationSeconds": "3"}], [{**TOLERATION, "key": 3}],
    ]),
    "images": st.sampled_from([[], [""], [3], ["a", None]]),
    "threshold": st.sampled_from([
        "", "tpr", "tpr=", "tpr=0", "tpr=2", "tpr=-1", "fpr=1", "fpr=nan", "fpr=0.05", "inf", "nan", "share=0.5",
        "0.5=",
    ]),
    "score": st.sampled_from(["", "KNN", "a b", "a.b.c", "../knn"]),
    "tables": st.sampled_from([[3], ["8"], ["1-3", "none"]]),
    "configurations": st.sampled_from([
        ["a"], [{}], [{"name": 3}], [{"name": "a", "epoch": 3}], [{"name": "a", "epochs": -1}],
        [{"name": "as long as the warm-up", "epochs": 5}],
        [{"name": "a", "num_experts": 1, "top_k": 2}], [{"name": "a", "mixup": "strong"}],
    ]),
    "seeds": st.sampled_from([[], [0, 0], [-1], [0.5], ["a"], [math.nan]]),
}  # fmt: skip
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "max_rejected": FRACTION,
    "epochs": st.just(0) | st.integers(6, 10_000),
    "learning_rate": st.floats(1e-6, 10),
    "min_learning_rate": st.floats(0, 1e-6),
    "warmup_epochs": st.floats(0, 5),
    "drop_path": st.floats(0, 0.99),
    "mixup_scale": FRACTION,
    "regulariser_weight": st.floats(0, 0.99),
    "validation_fraction": st.floats(1e-6, 0.5),
    "batch_size": SIZE,
    "inference_batch_size": SIZE,
    "num_workers": st.integers(0, 1024),
    "seed": st.integers(0, 2**32 - 1),
    "weights": st.sampled_from(["", "random", "a b/x.safetensors", "s3://bucket/x.pth"]),
    "cpu": st.sampled_from(["8", "0.5", "500m"]),
    "memory": st.sampled_from(["32Gi", "500M", "1000000"]),
    "node_selector": st.sampled_from([{}, {"cloud.google.com/gke-accelerator": "nvidia-h100", "pool": ""}]),
    "tolerations": st.sampled_from([[], [TOLERATION], [{"operator": "Exists", "tolerationSeconds": 3}]]),
    "node_resources": st.sampled_from([{}, {"nvidia.com/gpu": 8, "memory": "64Gi", "cpu": "500m"}]),
    "strategy": st.sampled_from(["taxonomy", "kmeans++"]),
    "train_data": st.text(min_size=1).filter(lambda t: t.strip() and "\0" not in t and "://" not in t),
    "credentials": st.sampled_from(["mofe-credentials", "a.b"]),
}


def test_every_parameter_has_its_rule() -> None:
    for name, known in KNOWN.items():
        for parameter, spec in known.items():
            checked = {*RULES, *Recipe.__annotations__, "ood_data"}
            assert parameter in checked or spec["parameterType"] == "BOOLEAN", f"{name}: {parameter}"
            assert parameter in BAD or spec["parameterType"] == "BOOLEAN", f"{parameter} is not tested"


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_what_cannot_be_meant_is_refused_with_name_value_and_range(data: st.DataObject) -> None:
    pipeline = data.draw(st.sampled_from(PIPELINES))
    name = data.draw(st.sampled_from(sorted(BAD.keys() & KNOWN[pipeline].keys())))
    value = data.draw(BAD[name])
    with pytest.raises(MofeError) as refused:
        check_parameters({**LEAST[pipeline], name: value}, KNOWN[pipeline], "p.yaml")
    text = str(refused.value)
    assert text.startswith("p.yaml: ")
    if name not in ("ood_data", "configurations", "tables"):  # of these the entry is named
        assert f"{name} = " in text and (repr(value) in text or str(value) in text)
        assert any(word in text for word in ("must", "is not one of", "give at least one")), text


@settings(max_examples=100, deadline=None)
@given(changes=st.fixed_dictionaries({}, optional=GOOD))
def test_what_can_be_meant_passes(changes: dict[str, Any]) -> None:
    check_parameters({**LEAST["mofe"], **changes}, KNOWN["mofe"], "p.yaml")


def test_a_share_of_unknown_images_may_be_asked_for_where_there_are_some() -> None:
    check_values({"threshold": "fpr=0", "unknown": ("a",)}, "mofe detect")


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_an_unknown_name_is_refused_with_the_nearest(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(n for n in KNOWN["mofe"] if len(n) > 5)))
    at = data.draw(st.integers(1, len(name) - 2))
    with pytest.raises(MofeError, match=r"p\.yaml: the pipeline has no parameter '.*'; did you mean \w+\?"):
        check_parameters({**LEAST["mofe"], name[:at] + "Q" + name[at + 1 :]: 1}, KNOWN["mofe"], "p.yaml")


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("place", ["s3://user:canary@bucket/x", "https://u:canary@host:8080/a.tar"])
def test_a_password_in_a_uri_is_refused_and_not_shown(pipeline: str, place: str) -> None:
    for name, value in LEAST[pipeline].items():
        spoilt = (
            place if isinstance(value, str) else [{"dataset": "a", "uri": place}] if name == "ood_data" else [place]
        )
        with pytest.raises(MofeError, match="was given with a user name and password") as refused:
            check_parameters({**LEAST[pipeline], name: spoilt}, KNOWN[pipeline], "p.yaml")
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run -f p.yaml --set num_workers=-1", "p.yaml: num_workers = -1 must lie between 0 and 1024"),
        ("run -f p.yaml --set top_k=4 num_experts=2", "p.yaml: top_k = 4 must lie between 1 and num_experts = 2"),
        ("run -f p.yaml --set epochs=.nan", "epochs = nan is not a whole number"),
        ("schedule a -f p.yaml --cron x --set memory=many", "memory = 'many' must be a size"),
        ("register --set cpu=-1", "cpu = '-1' must be a number of CPUs"),
        ("detect --detector d x --batch-size 0", "mofe detect: batch_size = 0 must lie between 1 and 1048576"),
        ("detect --detector d x --neighbours -1", "neighbours = -1 must lie between 0 and 1000"),
        ("detect --detector d x --threshold tpr=7", "threshold = 'tpr=7' must be tpr=SHARE"),
        (
            "detect --detector d x --threshold fpr=0.1",
            "threshold = 'fpr=0.1' must be tpr=SHARE or a number, because fpr=SHARE needs",
        ),
        (
            "detect --detector d x --threshold fpr=1 --unknown y",
            "threshold = 'fpr=1' must be tpr=SHARE (more than 0, at most 1), fpr=SHARE (at",
        ),
        ("serve --detector d --threshold fpr=0.1", "mofe serve: threshold = 'fpr=0.1' must be tpr=SHARE or a number"),
        ("serve --detector d --port 0", "mofe serve: port = 0 must lie between 1 and 65535"),
        ("serve --detector d --max-images 0", "max_images = 0 must lie between 1"),
        ("stage extract --images a --features b --batch-size 0", "mofe stage extract: batch_size = 0 must lie"),
        ("stage extract --images a --features b --precision fp8", "precision = 'fp8' is not one of auto, bf16, fp32"),
        ("stage prepare --source s3://u:canary@b/c --images b --name a --role ood", "was given with a user name and"),
        ("stage finetune --images a --features b --partition c --model d --history e --epochs -1", "epochs = -1 must"),
        (
            "stage list_files --images a --files b --shards 0",
            "mofe stage list_files: shards = 0 must lie between 1 and",
        ),
        ("stage merge_predictions --shards a --predictions b --counts c", "there is no set of predictions at"),
        ("stage predict --files a --detector b --predictions c --shard -1", "shard = -1 must be at least 0"),
    ],
)
def test_on_the_command_line(arguments: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.yaml").write_text("{train_data: a, test_data: b, ood_data: [{dataset: c, uri: d}]}")
    done = command_line(*arguments.split())
    assert (done.code, message in done.err) == (1, True), done.err
    assert "canary" not in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"], "before any work"
