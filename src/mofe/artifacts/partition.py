"""The partition: the expert of each class."""

from typing import ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict

from mofe.artifacts.manifest import Manifest
from mofe.errors import MofeError

RouterKind = Literal["cluster", "class"]
"""Unit of the router's outputs."""


class Seed(BaseModel):
    """A super-category that an expert's cluster starts from: a WordNet synset and the classes under it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    synset: str
    classes: tuple[int, ...]


class ChosenSense(BaseModel):
    """The meaning that WordNet's list of senses gave to the name of a class."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    label: int
    """Index of the class."""
    definition: str
    senses: int
    """Number of senses of the name; with 1, nothing was chosen."""


class Partition(Manifest):
    """The expert of each class, and how the partition was made."""

    file_name: ClassVar[str] = "partition.json"
    what: ClassVar[str] = "partition"
    num_experts: int
    strategy: str
    classes: tuple[str, ...]
    synsets: tuple[str | None, ...]
    names: tuple[str, ...]
    """Readable name of each class: the synset's first lemma, else the class name itself."""
    senses: tuple[ChosenSense, ...] = ()
    """One for each class whose synset was looked up by a noun; none if the strategy does not use WordNet."""
    expert_of_class: tuple[int, ...]
    seeds: tuple[Seed, ...]
    """One seed per expert, in order; empty for strategies that do not start from WordNet."""
    centers: tuple[tuple[float, ...], ...]
    inertia: float
    iterations: int

    @classmethod
    def of_one_expert(cls, classes: tuple[str, ...]) -> Self:
        """Make the trivial partition. With one expert, an untrained MoFE is the backbone itself."""
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

    def senses_in_words(self) -> list[str]:
        """A line for each class whose synset was looked up by a noun; those with several senses are first."""
        return [
            f"{self.classes[s.label]}: {self.synsets[s.label]}, {s.definition} ("
            + (f"one of {s.senses} senses)" if s.senses > 1 else "its only sense)")
            for s in sorted(self.senses, key=lambda sense: sense.senses == 1)
        ]

    def check_experts(self) -> None:
        """Refuse a partition that contradicts itself.

        Raises:
            MofeError: there is not an expert for each class, or an expert without a class.
        """
        if len(self.expert_of_class) != len(self.classes) or {*self.expert_of_class} != {*range(self.num_experts)}:
            raise MofeError(
                f"the partition has {len(self.classes)} classes and {self.num_experts} experts, and classes of the "
                f"experts {sorted({*self.expert_of_class})}: each class needs one, and each expert a class"
            )

    def classes_of(self, expert: int) -> list[int]:
        """Class indices of ``expert``'s cluster, ascending."""
        return [c for c, e in enumerate(self.expert_of_class) if e == expert]
