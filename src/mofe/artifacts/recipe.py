"""The parameters of training: type, default, range and meaning of each, checked before any work begins.

A parameter is defined here and nowhere else. The arguments of finetune, the parameters of the pipelines, --help,
docs/reference/parameters.md and the checks of parameter files are made from this class. Only components repeat the
names, because kfp reads their source.
"""

from dataclasses import Field, asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from mofe.arguments import whole
from mofe.artifacts.keywords import Keyword
from mofe.artifacts.rule import TRUE_OR_FALSE, Rule, at_least, between, one_of
from mofe.errors import MofeError


def parameter(default: Any, description: str, rule: Rule | None = None, *, changeable: bool = False) -> Any:
    """Declare a parameter of training, as a field of :class:`Recipe`.

    Args:
        default: default value; its type is that of the parameter.
        description: one sentence for the reference and --help.
        rule: allowed values; None where the annotation is a Literal, which lists them.
        changeable: whether a configuration of the pipeline tables may change it.
    """
    return field(default=default, metadata={"description": description, "rule": rule, "changeable": changeable})


@dataclass(frozen=True)
class Recipe:
    """The parameters of fine-tuning."""

    epochs: int = parameter(
        40,
        "epochs of fine-tuning; 0 trains only a linear probe on the pre-trained backbone.",
        at_least(0),
        changeable=True,
    )
    probe_epochs: int = parameter(3, "epochs of the linear probe that router and heads start from.", at_least(0))
    probe_learning_rate: float = parameter(
        1e-3, "learning rate of the linear probe (AdamW, cosine to 0, batches of micro_batch_size).", between(1e-12, 10)
    )
    batch_size: int = parameter(
        1024, "images per optimiser step, over all devices and accumulated micro-batches.", between(1, 1 << 20)
    )
    micro_batch_size: int = parameter(128, "images per forward pass on a device.", between(1, 1 << 20))
    learning_rate: float = parameter(
        1e-4, "highest learning rate, that of the top layer.", between(1e-12, 10), changeable=True
    )
    min_learning_rate: float = parameter(1e-6, "learning rate at the end of the cosine.", at_least(0))
    warmup_epochs: float = parameter(5.0, "epochs of linear warm-up from 0; less than epochs.", at_least(0))
    weight_decay: float = parameter(0.05, "weight decay of AdamW, for matrices.", at_least(0))
    layer_decay: float = parameter(
        0.75, "factor on the learning rate from each layer to the one below.", between(1e-6, 1)
    )
    drop_path: float = parameter(
        0.1, "stochastic depth of the last block, rising linearly from 0 at the first.", between(0, 0.99)
    )
    clip_norm: float = parameter(1.0, "largest norm of the gradient; 0 turns clipping off.", at_least(0))
    augmentation: Literal["randaugment", "crop-flip", "crop", "none"] = parameter(
        "randaugment", "randaugment (crop, flip, RandAugment), crop-flip, crop (without flips) or none."
    )
    mixup: Literal["dynamic", "fixed", "none"] = parameter(
        "dynamic", "dynamic (σ from the accuracy of each class), fixed (σ = mixup_sigma) or none.", changeable=True
    )
    mixup_scale: float = parameter(
        0.9, "w in σ = 1 - w·s, from 0 to 1; s is the accuracy of the class.", between(0, 1), changeable=True
    )
    mixup_sigma: float = parameter(1.0, "σ of fixed Mixup.", between(0.05, 100), changeable=True)
    fold_lambda: bool = parameter(
        True,
        "whether λ is folded to [½, 1], so that the image whose expert is trained is the larger part.",
        TRUE_OR_FALSE,
        changeable=True,
    )
    regulariser: Literal["label-smoothing", "l2", "none"] = parameter(
        "label-smoothing", "label-smoothing, l2 (squared norm of the final embedding) or none.", changeable=True
    )
    regulariser_weight: float = parameter(
        0.1, "smoothed share of the target, or factor on the squared norm.", at_least(0), changeable=True
    )
    negative_weight: float = parameter(
        1.0, "weight of images of other experts' classes in an expert's loss.", at_least(0), changeable=True
    )
    router: Literal["cluster", "class"] = parameter(
        "cluster",
        "cluster (one output per expert) or class (one output per class; the likeliest class selects the expert).",
        changeable=True,
    )
    expert_init: Literal["backbone", "naive"] = parameter(
        "backbone",
        "backbone (experts are copies of the pre-trained last blocks) or naive (copies after the same fine-tuning "
        "without experts and Mixup, with labels smoothed by 0.1; takes twice the time).",
        changeable=True,
    )
    validation_fraction: float = parameter(
        0.05,
        "share of each class's training images that is not trained on, but measures s and sets thresholds.",
        between(1e-6, 0.5),
    )
    seed: int = parameter(
        0, "random seed of the split, the order of images, augmentation and Mixup.", between(0, 2**32 - 1)
    )

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            rule.check(name, getattr(self, name))
            if KEYWORDS[name].type is int:
                whole(name, getattr(self, name))
        between(0, self.learning_rate).check("min_learning_rate", self.min_learning_rate)
        if 0 < self.epochs <= self.warmup_epochs:
            raise MofeError(
                f"warmup_epochs = {self.warmup_epochs:g} must be less than epochs = {self.epochs:g}, because training "
                "would end before the learning rate has reached its peak: lower warmup_epochs, or train longer"
            )
        if self.regulariser == "label-smoothing":
            between(0, 0.99).check("regulariser_weight", self.regulariser_weight)

    def naive(self) -> Self:
        """The recipe of naive fine-tuning: without experts and Mixup, with smoothed labels."""
        return replace(
            self,
            mixup="none",
            regulariser="label-smoothing",
            regulariser_weight=0.1,
            router="cluster",
            expert_init="backbone",
        )

    def shares(self, processes: int) -> tuple[int, int]:
        """Divide the ``batch_size`` images of a step among processes.

        Returns:
            Images per micro-batch, and micro-batches per process. Their product over all processes is ``batch_size``. A
            micro-batch is as large as ``micro_batch_size`` allows.

        Raises:
            MofeError: the shares would be unequal, or the micro-batches less than half of ``micro_batch_size``.
        """
        processes = whole("processes", processes, 1)
        per_process, left = divmod(self.batch_size, processes)
        most = min(self.micro_batch_size, per_process)
        micro = next((size for size in range(most, most // 2, -1) if per_process % size == 0), 0)
        if left or not micro:
            fitting = processes * self.micro_batch_size
            raise MofeError(
                f"batch_size = {self.batch_size} cannot be divided evenly among {processes} processes in micro-batches "
                f"of about {self.micro_batch_size}: take a multiple of {fitting}, or another micro_batch_size"
            )
        return micro, per_process // micro

    def to_dict(self) -> dict[str, Any]:
        """Convert the parameters to plain JSON values."""
        return asdict(self)


def _rule(parameter: Field[Any]) -> Rule:
    return parameter.metadata["rule"] or one_of(*get_args(parameter.type))


RULES = {parameter.name: _rule(parameter) for parameter in fields(Recipe)}
"""Allowed values of each parameter."""
KEYWORDS = {p.name: Keyword(type(p.default), p.default, p.metadata["description"]) for p in fields(Recipe)}
"""The parameters as arguments of a function, for :func:`mofe.artifacts.keywords.takes`."""
CHANGEABLE = {p.name: type(p.default) for p in fields(Recipe) if p.metadata["changeable"]}
"""Types of the parameters that a configuration of the pipeline tables may change."""
