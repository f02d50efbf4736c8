"""Divides the classes among the experts."""

from mofe.artifacts.features import Features
from mofe.artifacts.partition import Partition
from mofe.partitioning.clusters import partition_classes
from mofe.storage import locations, writing
from mofe.tracking import journal

TOLD = 20
"""Senses that are printed; the report shows all."""


def partition(
    features: str, partition: str, *, num_experts: int = 7, strategy: str = "wordnet-kmeans", seed: int = 0
) -> None:
    """Divide the classes among experts: K-Means over their prototypes, seeded from WordNet.

    Writes partition.json with the expert of each class, and the WordNet synset that seeded each expert.

    Args:
        features: features written by extract (path or URI).
        partition: path or URI of the folder to write the partition to.
        num_experts: number of experts, from 1 to the number of classes. The paper finds no gain beyond 7.
        strategy: wordnet-kmeans (the paper's), taxonomy (WordNet alone), self-learning (an unsupervised router),
            kmeans++ or random; the last three do not need WordNet.
        seed: random seed of self-learning, kmeans++ and random.

    Raises:
        MofeError: a class has no synset where the strategy needs one, or a parameter is invalid.
    """
    with journal.stage_run("partition", {"num_experts": num_experts, "strategy": strategy}) as run:
        known = Features(features)
        result = partition_classes(
            known.prototypes_CD, known.info.synsets, num_experts, strategy, classes=known.info.classes, seed=seed
        )
        with writing.staged(partition) as folder:
            result.model_copy(update={"made_from": {"features": known.info.identity}}).write(folder)
        run.file(locations.resolve(partition) / "partition.json")
        run.metrics({"inertia": result.inertia, "iterations": result.iterations})
        _tell_senses(result)
        for expert in range(num_experts):
            grown = f" from {result.seeds[expert].synset}" if result.seeds else ""
            members = [result.names[c] for c in result.classes_of(expert)]
            more = f" and {len(members) - 8} more" if len(members) > 8 else ""
            print(f"expert {expert}{grown}: {len(members)} classes: {', '.join(members[:8])}{more}")


def _tell_senses(result: Partition) -> None:
    """Print what WordNet takes the names of classes for, unless they are synsets."""
    lines = result.senses_in_words()
    for line in lines[:TOLD]:
        print(line)
    if lines:
        more = f"and {len(lines) - TOLD} more senses, which the report shows; " if len(lines) > TOLD else ""
        print(f"{more}where a sense is wrong, name the synset in a synsets.csv (columns class,synset)")
