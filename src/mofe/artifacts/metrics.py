"""How well a detector did."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from mofe.artifacts.manifest import Manifest


class Result(BaseModel):
    """One row of the result table: an OOD set under a score. Fractions in [0, 1]."""

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
        """Whether the score is the detector's own, and not one of those it is compared with (``SPACE.NAME``)."""
        return "." not in self.score


class ExpertResult(BaseModel):
    """How one expert does. None where it has seen no image of a kind."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    expert: int
    id_images: int
    """Of the ID test set, of its classes."""
    id_accuracy: float | None
    ood_images: int
    """Of all OOD sets, that the router sent to it."""
    fpr95: float | None
    """Of the KNN score, among the ID and OOD images that the router sent to it."""
    auroc: float | None


class Metrics(Manifest):
    """``metrics.json`` of a run."""

    file_name: ClassVar[str] = "metrics.json"
    what: ClassVar[str] = "metrics file"
    name: str = ""
    """Of the configuration, where several are compared."""
    id_accuracy: float
    router_accuracy: float
    zero_shot_accuracy: float | None = None
    """Of the untouched backbone and the class names alone, where there is a text model."""
    results: tuple[Result, ...]
    experts: tuple[ExpertResult, ...] = ()
    class_accuracy: dict[str, float] = Field(default_factory=dict)
    """Of the classes that the ID test set has images of, by their own names: two may read alike."""
    kinds: dict[str, str] = Field(default_factory=dict)
    """Of OOD sets, "near" or "far", where that was said."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """Of the pipeline, that gave this result."""

    @property
    def own(self) -> tuple[Result, ...]:
        """The results of the detector's own scores."""
        return tuple(result for result in self.results if result.is_own)

    @property
    def averages(self) -> dict[str, list[str]]:
        """The averages to be shown and the OOD sets of each: near-OOD and far-OOD where there are such, and all."""
        sets = list(dict.fromkeys(result.ood for result in self.results))
        groups = {
            f"average of {kind}-OOD": [name for name in sets if self.kinds.get(name) == kind]
            for kind in ("near", "far")
        }
        return {name: group for name, group in groups.items() if group} | ({"average": sets} if sets[1:] else {})
