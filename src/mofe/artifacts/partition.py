"""Which expert each class belongs to."""

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from mofe.artifacts.manifest import Manifest

RouterKind = Literal["cluster", "class"]
"""What the router has an output for."""


class Seed(BaseModel):
    """A super-category from which an expert's cluster was grown: a WordNet synset and the classes under it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    synset: str
    classes: tuple[int, ...]


class Partition(Manifest):
    """Which expert each class belongs to, and how that came about."""

    file_name: ClassVar[str] = "partition.json"
    what: ClassVar[str] = "partition"
    num_experts: int
    strategy: str
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    names: tuple[str, ...]
    """A name people read for each class: the synset's first lemma, else the class name itself."""
    expert_of_class: tuple[int, ...]
    seeds: tuple[Seed, ...]
    """One per expert, in order of experts; empty for strategies that do not start from WordNet."""
    centers: tuple[tuple[float, ...], ...]
    inertia: float
    iterations: int

    @classmethod
    def of_one_expert(cls, classes: tuple[str, ...]) -> Self:
        """The trivial partition: with one expert, a MoFE that was not trained is the backbone itself."""
        return cls(
            num_experts=1,
            strategy="one expert",
            classes=classes,
            synsets=(None,) * len(classes),
            names=classes,
            expert_of_class=(0,) * len(classes),
            seeds=(),
            centers=(),
            inertia=0.0,
            iterations=0,
        )

    def classes_of(self, expert: int) -> list[int]:
        """The class indices of ``expert``'s cluster, ascending."""
        return [c for c, e in enumerate(self.expert_of_class) if e == expert]
