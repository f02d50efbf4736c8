"""configure: the settings of a run over the pipeline's parameters, each of its type."""

import inspect

import pytest

from components.configure import configure as component
from mofe.ablations import CHANGEABLE, Configuration
from mofe.errors import MofeError
from mofe.stages.configure import configure
from mofe.stages.finetune import finetune

BASE = {
    "num_experts": 7, "strategy": "wordnet-kmeans", "top_k": 1, "epochs": 40, "learning_rate": 1e-4,
    "mixup": "dynamic", "mixup_scale": 0.9, "mixup_sigma": 1.0, "fold_lambda": True, "regulariser": "label-smoothing",
    "regulariser_weight": 0.1, "negative_weight": 1.0, "router": "cluster", "expert_init": "backbone", "knn_k": 0,
    "bank": "expert",
}  # fmt: skip


def test_settings_go_over_parameters_and_the_rest_stays() -> None:
    run = {"name": "few", "seed": 2.0, "settings": {"num_experts": 3.0, "mixup": "none"}}
    chosen = configure(run, BASE)
    assert chosen == Configuration("few", 2, **{**BASE, "num_experts": 3, "mixup": "none"})
    assert type(chosen.num_experts) is int


def test_a_setting_of_another_type_is_refused() -> None:
    with pytest.raises(MofeError, match="epochs = 'many' is not of type int"):
        configure({"name": "x", "seed": 0, "settings": {"epochs": "many"}}, BASE)


def test_the_component_hands_on_every_changeable_parameter() -> None:
    outputs = list(component.component_spec.outputs)
    assert outputs == list(Configuration._fields)
    assert set(component.component_spec.inputs) == {"run", *CHANGEABLE}


def test_the_types_are_finetunes_own() -> None:
    parameters = inspect.signature(finetune).parameters
    for name in set(CHANGEABLE) & set(parameters):
        assert type(parameters[name].default) is Configuration.__annotations__[name], name
