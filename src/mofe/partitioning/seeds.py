"""Super-categories: WordNet synsets that split the classes of a data set into E groups of similar size."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mofe.arguments import texts
from mofe.errors import MofeError, shown
from mofe.partitioning.wordnet import path_from_root


@dataclass(frozen=True)
class Supercategory:
    """A WordNet synset and the classes (indices) that lie under it."""

    synset: str
    classes: tuple[int, ...]


def check_num_experts(num_experts: int, num_classes: int) -> int:
    """The number of experts, each of which needs a class.

    Raises:
        MofeError: it is not a whole number from 1 to the number of classes.
    """
    if not isinstance(num_experts, int | float | np.integer) or num_experts not in range(1, num_classes + 1):
        raise MofeError(
            f"num_experts = {shown(num_experts)} must lie between 1 and the number of classes, {num_classes}"
        )
    return int(num_experts)


def supercategories(synsets: Sequence[str], num_experts: int) -> list[Supercategory]:
    """Find the ``num_experts`` largest super-categories of the classes, largest first.

    The search starts at WordNet's root. While a super-category holds more than 2/E of the classes, or there are fewer
    than E super-categories, it splits the largest into its children along each class's hypernym path (the shortest,
    then the first by alphabet). Ties are broken by synset name, so the same classes always give the same result.

    The paper does not list its super-categories; this rule, and those that it finds on ImageNet-1K, are this project's.

    Args:
        synsets: noun synset of each of the C classes.
        num_experts: E, between 1 and C.

    Raises:
        MofeError: E is out of range, or the classes fall into fewer than E synsets.
    """
    num_classes = len(synsets := texts("synsets", synsets))
    num_experts = check_num_experts(num_experts, num_classes)
    paths = [path_from_root(synset) for synset in synsets]
    whole: list[tuple[int, list[int]]] = [(0, list(range(num_classes)))]  # (depth of the synset, classes under it)
    atoms: list[tuple[int, list[int]]] = []  # groups that no path splits further

    def by_size(group: tuple[int, list[int]]) -> tuple[int, str]:
        depth, classes = group
        return -len(classes), paths[classes[0]][depth]

    while whole:
        depth, classes = min(whole, key=by_size)
        few = len(whole) + len(atoms) < num_experts
        if not few and len(classes) * num_experts <= 2 * num_classes:
            break
        whole.remove((depth, classes))
        children: dict[str, list[int]] = defaultdict(list)
        ending: list[int] = []  # classes whose synset this is
        for c in classes:
            if depth + 1 < len(paths[c]):
                children[paths[c][depth + 1]].append(c)
            else:
                ending.append(c)
        whole += [(depth + 1, below) for below in children.values()]
        if ending:
            atoms.append((depth, ending))

    groups = sorted(whole + atoms, key=by_size)
    if len(groups) < num_experts:
        raise MofeError(
            f"the {num_classes} classes fall into only {len(groups)} synsets of WordNet: lower num_experts "
            f"({num_experts}), or give classes that share a synset their own in a synsets.csv"
        )
    return [Supercategory(paths[classes[0]][depth], tuple(classes)) for depth, classes in groups[:num_experts]]
