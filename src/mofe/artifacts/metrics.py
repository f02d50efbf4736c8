"""Metrics of a detector on the test sets."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mofe.artifacts.manifest import Manifest


class Result(BaseModel):
    """One row of the result table: a score on an OOD set. Fractions in [0, 1]."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    ood: str
    score: str
    fpr95: float
    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95_ood_positive: float
    fpr95_interval: tuple[float, float] | None = None
    """Bootstrap 95 % confidence interval over the draw of the images."""
    auroc_interval: tuple[float, float] | None = None

    @property
    def is_own(self) -> bool:
        """Whether the score is the detector's own, and not a baseline's (``SPACE.NAME``)."""
        return "." not in self.score


class ExpertResult(BaseModel):
    """Metrics of one expert; None where no image of the kind was routed to it or is of its classes."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    expert: int
    id_images: int
    """Number of ID test images of the expert's classes."""
    id_accuracy: float | None
    ood_images: int
    """Number of images of all OOD sets that the router sent to the expert."""
    fpr95: float | None
    """FPR95 of the KNN score on the ID and OOD images that the router sent to the expert."""
    auroc: float | None


class Metrics(Manifest):
    """``metrics.json`` of a run."""

    file_name: ClassVar[str] = "metrics.json"
    what: ClassVar[str] = "metrics file"
    name: str = ""
    """Name of the configuration, if several are compared."""
    id_accuracy: float
    router_accuracy: float
    zero_shot_accuracy: float | None = None
    """Accuracy by the pre-trained backbone and the class names alone, if there is a text model."""
    results: tuple[Result, ...]
    experts: tuple[ExpertResult, ...] = ()
    class_accuracy: dict[str, float] = Field(default_factory=dict)
    """Accuracy on each class that the ID test set has images of, by the class's own name, which is unique."""
    kinds: dict[str, str] = Field(default_factory=dict)
    """Kind of each OOD set, "near" or "far", if ``ood_data`` gives it."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Pipeline parameters that the result depends on."""

    @property
    def own(self) -> tuple[Result, ...]:
        """The results of the detector's own scores."""
        return tuple(result for result in self.results if result.is_own)

    @property
    def averages(self) -> dict[str, list[str]]:
        """OOD sets of each average to show: near-OOD, far-OOD, and all sets if there are several."""
        sets = list(dict.fromkeys(result.ood for result in self.results))
        groups = {
            f"average of {kind}-OOD": [name for name in sets if self.kinds.get(name) == kind]
            for kind in ("near", "far")
        }
        return {name: group for name, group in groups.items() if group} | ({"average": sets} if sets[1:] else {})
