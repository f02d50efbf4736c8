"""The partition of the classes: K-Means over their prototypes, and the other strategies of the paper's Table 6."""

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from mofe.arguments import array, one_of, same_length, texts, whole
from mofe.artifacts.partition import Partition, Seed
from mofe.errors import MofeError
from mofe.partitioning.seeds import Supercategory, check_num_experts, supercategories
from mofe.partitioning.self_learning import learn_groups
from mofe.partitioning.strategies import BY_WORDNET, STRATEGIES
from mofe.partitioning.wordnet import chosen_senses, readable_name, resolve_synsets, similarity

LARGEST = 1e100
"""Bound of a prototype's values, above which squared distances would overflow."""


def partition_classes(
    prototypes_CD: np.ndarray,
    synsets: Sequence[str | None],
    num_experts: int,
    strategy: str = "wordnet-kmeans",
    *,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> Partition:
    """Divide C classes among E experts.

    With ``wordnet-kmeans`` the mean prototype of each WordNet super-category is the first centre of a cluster. K-Means
    starts once, from these centres, and moves each class to the nearest centre. So the same data always gives the same
    partition.

    Args:
        prototypes_CD: prototype of each class, the mean of its class embeddings that enter the MoFE layer.
        synsets: wnid or synset name of each class; None looks it up by the class name.
        num_experts: E.
        strategy: one of :data:`mofe.partitioning.strategies.STRATEGIES`.
        classes: class names; the synsets themselves if left out.
        seed: seed of ``self-learning``, ``kmeans++`` and ``random``.

    Raises:
        MofeError: the strategy is unknown, E is out of range, a prototype is not finite, a class has no synset (if
            WordNet is needed), or there are fewer distinct prototypes than experts.
    """
    prototypes_CD = np.asarray(array("prototypes", prototypes_CD, 2), np.float64)
    synsets = texts("synsets", synsets, optional=True)
    names = [str(name) for name in synsets] if classes is None else texts("classes", classes)
    same_length(classes=names, synsets=synsets)
    one_of("strategy", strategy, STRATEGIES)
    num_experts, seed = check_num_experts(num_experts, len(names)), whole("seed", seed, 0, 2**32 - 1)
    if not prototypes_CD.shape[1]:
        raise MofeError(f"prototypes of shape {prototypes_CD.shape} have no features")
    if prototypes_CD.shape[0] != len(names):
        raise MofeError(f"expected a prototype for each of {len(names)} classes, found {len(prototypes_CD)}")
    bad = np.flatnonzero(~(np.abs(prototypes_CD) < LARGEST).all(axis=1))
    if bad.size:
        raise MofeError(f"the prototype of class {names[bad[0]]!r} is not finite, or above {LARGEST:g}")

    resolved: Sequence[str | None] = synsets
    known: list[str] = []
    readable = names
    seeds: list[Supercategory] = []
    if strategy in BY_WORDNET:
        resolved = known = resolve_synsets(names, synsets)
        readable = [readable_name(synset) for synset in known]
        seeds = supercategories(known, num_experts)

    inertia, iterations = 0.0, 0
    if strategy == "taxonomy":
        expert_C = _by_taxonomy(resolved, seeds)
    elif strategy == "self-learning":
        with threadpool_limits(1):
            expert_C = learn_groups(prototypes_CD, num_experts, seed)
    elif strategy == "random":
        expert_C = np.random.default_rng(seed).permutation(np.arange(len(names)) % num_experts)
    else:
        start = np.stack([prototypes_CD[list(s.classes)].mean(axis=0) for s in seeds]) if seeds else "k-means++"
        expert_C, inertia, iterations = _by_kmeans(prototypes_CD, num_experts, start, seed)
    centers_ED = np.stack([prototypes_CD[expert_C == e].mean(axis=0) for e in range(num_experts)])
    if strategy in ("taxonomy", "self-learning", "random"):
        inertia = float(((prototypes_CD - centers_ED[expert_C]) ** 2).sum())
    return Partition(
        num_experts=num_experts,
        strategy=strategy,
        classes=tuple(names),
        synsets=tuple(resolved),
        names=tuple(readable),
        senses=chosen_senses(names, synsets, known) if seeds else (),
        expert_of_class=tuple(int(e) for e in expert_C),
        seeds=tuple(Seed(synset=s.synset, classes=s.classes) for s in seeds),
        centers=tuple(tuple(float(x) for x in center) for center in centers_ED),
        inertia=inertia,
        iterations=iterations,
    )


def _by_kmeans(
    prototypes_CD: np.ndarray, num_experts: int, start: np.ndarray | str, seed: int
) -> tuple[np.ndarray, float, int]:
    distinct = len(np.unique(prototypes_CD, axis=0))
    if distinct < num_experts:
        raise MofeError(
            f"only {distinct} of the class prototypes differ: they cannot make {num_experts} experts; lower num_experts"
        )
    restarts = 10 if isinstance(start, str) else 1
    kmeans = KMeans(num_experts, init=start, n_init=restarts, max_iter=1000, tol=0.0, random_state=seed)
    with threadpool_limits(1):  # a parallel sum's order changes the last bits
        kmeans.fit(prototypes_CD)
    return kmeans.labels_, float(kmeans.inertia_), int(kmeans.n_iter_)


def _by_taxonomy(synsets: Sequence[str | None], seeds: Sequence[Supercategory]) -> np.ndarray:
    """Assign each class to its super-category, and others to the most similar one (Wu and Palmer), larger first."""
    expert_of = {c: e for e, seed in enumerate(seeds) for c in seed.classes}
    for c, synset in enumerate(synsets):
        if c not in expert_of:
            expert_of[c] = int(np.argmax([similarity(str(synset), seed.synset) for seed in seeds]))
    return np.array([expert_of[c] for c in range(len(synsets))])
