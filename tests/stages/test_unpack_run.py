"""unpack_run: the parameters of a run one by one, each of its type."""

import inspect

import pytest

from components.unpack_run import unpack_run as component
from mofe.errors import MofeError
from mofe.report.configurations import CHANGEABLE, Configuration
from mofe.stages.finetune import finetune
from mofe.stages.unpack_run import unpack_run

BASE = {
    "num_experts": 7, "strategy": "wordnet-kmeans", "top_k": 1, "epochs": 40, "learning_rate": 1e-4,
    "mixup": "dynamic", "mixup_scale": 0.9, "mixup_sigma": 1.0, "fold_lambda": True, "regulariser": "label-smoothing",
    "regulariser_weight": 0.1, "negative_weight": 1.0, "router": "cluster", "expert_init": "backbone", "knn_k": 0,
    "bank": "expert",
}  # fmt: skip


def test_whole_numbers_are_whole_again() -> None:
    chosen = unpack_run({"name": "few", "seed": 2.0, "parameters": {**BASE, "num_experts": 3.0, "mixup": "none"}})
    assert chosen == Configuration("few", 2, **{**BASE, "num_experts": 3, "mixup": "none"})
    assert type(chosen.num_experts) is int


def test_a_parameter_of_another_type_is_refused() -> None:
    with pytest.raises(MofeError, match="epochs = 'many' is not of type int"):
        unpack_run({"name": "x", "seed": 0, "parameters": {**BASE, "epochs": "many"}})


def test_the_component_hands_on_every_changeable_parameter() -> None:
    outputs = list(component.component_spec.outputs)
    assert outputs == list(Configuration._fields)


def test_the_types_are_finetunes_own() -> None:
    parameters = inspect.signature(finetune).parameters
    for name in set(CHANGEABLE) & set(parameters):
        assert type(parameters[name].default) is Configuration.__annotations__[name], name
