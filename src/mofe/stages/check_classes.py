"""Whether the classes suit the test set, the experts and WordNet, before any long stage."""

from collections.abc import Mapping, Sequence
from typing import Any

from mofe.artifacts.image_set import ImageSet
from mofe.errors import MofeError
from mofe.partitioning.seeds import check_num_experts, supercategories
from mofe.partitioning.strategies import BY_WORDNET
from mofe.partitioning.wordnet import resolve_synsets


def check_classes(
    train: str,
    test: str,
    *,
    num_experts: int = 7,
    strategy: str = "wordnet-kmeans",
    runs: Sequence[Mapping[str, Any]] = (),
) -> int:
    """Refuse classes that a later stage would refuse, after features were extracted or a model was trained.

    Args:
        train: training images, as prepare wrote them (path or URI).
        test: in-distribution test images, as prepare wrote them (path or URI).
        num_experts: number of experts, from 1 to the number of classes.
        strategy: how classes are divided among them; wordnet-kmeans and taxonomy need a synset for each class.
        runs: runs of a comparison, as plan_runs lists them, each with its own number of experts and strategy; if there
            are any, they are checked instead.

    Returns:
        The number of classes.
    """
    known, tested = ImageSet.read(train), ImageSet.read(test)
    if lacking := [name for name in tested.classes if name not in known.classes]:
        raise MofeError(
            f"the test set {tested.source} has {len(lacking)} classes that the training set {known.source} does not "
            f"have, among them {', '.join(lacking[:5])}; the training set has {', '.join(known.classes[:5])}"
            f"{', …' if len(known.classes) > 5 else ''}: name its classes as the training set does, or give it as an "
            "OOD set"
        )
    groupings = [run["parameters"] for run in runs] or [{"num_experts": num_experts, "strategy": strategy}]
    for count in sorted({check_num_experts(item["num_experts"], len(known.classes)) for item in groupings}):
        if any(item["strategy"] in BY_WORDNET and item["num_experts"] == count for item in groupings):
            supercategories(resolve_synsets(known.classes, known.synsets), count)
    return len(known.classes)
