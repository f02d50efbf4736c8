"""The partition: seeded K-Means against scikit-learn and by hand, determinism, every strategy, every refusal."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans

from mofe.errors import MofeError
from mofe.partitioning import STRATEGIES, partition_classes, supercategories
from mofe.partitioning.self_learning import learn_groups
from mofe.partitioning.wordnet import readable_name, resolve_synsets, synset

NAMES = [
    "golden retriever",
    "beagle",
    "tabby",
    "goldfish",
    "shark",
    "teapot",
    "cup",
    "bucket",
    "sports car",
    "truck",
    "hen",
]
PROTOTYPES = np.random.default_rng(0).normal(size=(len(NAMES), 12))


def partition(num_experts: int = 3, strategy: str = "wordnet-kmeans", **more: object):  # type: ignore[no-untyped-def]
    return partition_classes(PROTOTYPES, [None] * len(NAMES), num_experts, strategy, classes=NAMES, **more)  # type: ignore[arg-type]


def test_kmeans_starts_from_the_mean_prototypes_of_the_supercategories() -> None:
    with warnings.catch_warnings(action="error"):  # scikit-learn warns of more starts than one from given centres
        found = partition()
    seeds = supercategories(resolve_synsets(NAMES, [None] * len(NAMES)), 3)
    start = np.stack([PROTOTYPES[list(s.classes)].mean(axis=0) for s in seeds])
    reference = KMeans(3, init=start, n_init=1, max_iter=1000, tol=0).fit(PROTOTYPES)
    assert list(found.expert_of_class) == reference.labels_.tolist()
    assert found.inertia == pytest.approx(reference.inertia_)
    np.testing.assert_allclose(found.centers, reference.cluster_centers_, atol=1e-9)
    assert [s.synset for s in found.seeds] == [s.synset for s in seeds]


def test_clusters_that_are_there_are_found() -> None:
    groups = np.array([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 1])
    prototypes = np.random.default_rng(1).normal(size=(len(NAMES), 12)) * 0.01 + np.eye(12)[groups] * 5
    found = partition_classes(prototypes, [None] * len(NAMES), 4, "kmeans++", classes=NAMES)
    assert len({(g, e) for g, e in zip(groups, found.expert_of_class, strict=True)}) == 4


def test_the_same_data_gives_the_same_bytes() -> None:
    assert partition().model_dump_json() == partition().model_dump_json()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("num_experts", [1, 2, 5, len(NAMES)])
def test_every_strategy_gives_every_expert_a_class(strategy: str, num_experts: int) -> None:
    found = partition(num_experts, strategy)
    assert sorted(set(found.expert_of_class)) == list(range(num_experts))
    assert len(found.centers) == num_experts
    assert sorted(c for e in range(num_experts) for c in found.classes_of(e)) == list(range(len(NAMES)))


def test_taxonomy_keeps_supercategories_together_and_sends_the_rest_to_the_most_similar() -> None:
    found = partition(4, "taxonomy")
    for expert, seed in enumerate(found.seeds):
        assert {found.expert_of_class[c] for c in seed.classes} == {expert}
    outside = set(range(len(NAMES))) - {c for seed in found.seeds for c in seed.classes}
    assert outside
    for c in outside:
        own = synset(str(found.synsets[c]))
        similarities = [own.wup_similarity(synset(seed.synset)) for seed in found.seeds]
        assert found.expert_of_class[c] == similarities.index(max(similarities))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_centres_are_means_and_the_inertia_is_the_sum_of_squared_distances_from_them(strategy: str) -> None:
    found = partition(3, strategy)
    assert (found.strategy, found.num_experts, found.classes) == (strategy, 3, tuple(NAMES))
    total = 0.0
    for expert, center in enumerate(found.centers):
        own = PROTOTYPES[found.classes_of(expert)]
        np.testing.assert_allclose(center, own.mean(axis=0), atol=1e-12)
        total += ((own - own.mean(axis=0)) ** 2).sum()
    assert found.inertia == pytest.approx(total)
    by_wordnet = strategy in ("wordnet-kmeans", "taxonomy")
    assert len(found.seeds) == (3 if by_wordnet else 0)
    readable = [readable_name(s) for s in resolve_synsets(NAMES, [None] * 11)]
    assert found.names == tuple(readable if by_wordnet else NAMES)
    assert found.synsets == (tuple(resolve_synsets(NAMES, [None] * 11)) if by_wordnet else (None,) * 11)
    assert (found.iterations > 0) == (strategy in ("wordnet-kmeans", "kmeans++"))


@pytest.mark.parametrize("seed", [0, 7])
def test_kmeans_plus_plus_is_the_best_of_ten_starts(seed: int) -> None:
    found = partition(4, "kmeans++", seed=seed)
    reference = KMeans(4, init="k-means++", n_init=10, max_iter=1000, tol=0, random_state=seed).fit(PROTOTYPES)
    assert list(found.expert_of_class) == reference.labels_.tolist()
    assert (found.inertia, found.iterations) == (pytest.approx(reference.inertia_), reference.n_iter_)


@pytest.mark.parametrize("seed", [14, 16])
def test_neither_nine_starts_nor_eleven_are_ten(seed: int) -> None:
    """With the first seed the tenth start is the best of ten, with the second the eleventh would be the best."""
    prototypes = np.random.default_rng(0).normal(size=(80, 4))
    names = [f"class{c}" for c in range(80)]
    found = partition_classes(prototypes, [None] * 80, 12, "kmeans++", classes=names, seed=seed)
    inertias = [
        KMeans(12, init="k-means++", n_init=starts, max_iter=1000, tol=0, random_state=seed).fit(prototypes).inertia_
        for starts in (9, 10, 11)
    ]
    assert len({round(inertia, 6) for inertia in inertias}) == 2
    assert found.inertia == pytest.approx(inertias[1])


def test_prototypes_in_float32_are_divided_in_float64() -> None:
    for strategy in ("kmeans++", "random"):
        single, double = (
            partition_classes(prototypes, [None] * len(NAMES), 3, strategy, classes=NAMES)
            for prototypes in (PROTOTYPES.astype(np.float32), PROTOTYPES.astype(np.float32).astype(np.float64))
        )
        assert single == double


def test_random_gives_every_expert_as_many_classes_and_follows_the_seed() -> None:
    found = [partition(4, "random", seed=seed).expert_of_class for seed in (0, 0, 1)]
    assert sorted(np.bincount(found[0])) == [2, 3, 3, 3]
    assert found[0] == found[1] != found[2]
    assert found[0] == partition(4, "random").expert_of_class, "the seed is 0 where none is given"
    assert list(found[0]) != sorted(found[0])


def test_self_learning_follows_the_seed() -> None:
    for seed in (0, 3):
        expected = learn_groups(PROTOTYPES, 4, seed)
        assert list(partition(4, "self-learning", seed=seed).expert_of_class) == expected.tolist()


def test_classes_without_names_are_called_by_their_synsets() -> None:
    synsets = ["golden_retriever.n.01", "tabby.n.01", "teapot.n.01"]
    found = partition_classes(PROTOTYPES[:3], synsets, 2)
    assert found.classes == found.synsets == tuple(synsets)
    assert found.names == ("golden retriever", "tabby", "teapot")
    assert found.strategy == "wordnet-kmeans"


def test_strategies_without_wordnet_take_any_name() -> None:
    names = ["xqz-1", "xqz-2", "xqz-3"]
    assert partition_classes(PROTOTYPES[:3], [None] * 3, 2, "kmeans++", classes=names).names == tuple(names)
    with pytest.raises(MofeError, match=r"of \d+ classes have no synset: 'xqz-1': it is not a WordNet noun"):
        partition_classes(PROTOTYPES[:3], [None] * 3, 2, classes=names)


def test_synsets_by_wnid_by_name_and_by_noun() -> None:
    given = ["n02099601", "tabby.n.01", None]
    assert resolve_synsets(["a", "b", "Sports-car"], given) == [
        "golden_retriever.n.01",
        "tabby.n.01",
        "sports_car.n.01",
    ]
    with pytest.raises(MofeError, match=r"nearest nouns are .*retriever"):
        resolve_synsets(["retreiver"], [None])
    with pytest.raises(MofeError, match="no noun synset 'n00000001'"):
        resolve_synsets(["n00000001"], [None])


def test_classes_that_are_called_by_all_nouns_of_a_synset() -> None:
    """As ImageNet's are in Hugging Face's Parquet: "tench, Tinca tinca"."""
    wnids = (Path(__file__).parents[2] / "examples" / "imagenet-100.txt").read_text().split()
    nouns = [synset(wnid).lemma_names() for wnid in wnids]
    found = resolve_synsets([", ".join(names).replace("_", " ") for names in nouns], [None] * len(nouns))
    assert sum(name == synset(wnid).name() for name, wnid in zip(found, wnids, strict=True)) > 85
    for name, every in zip(found, nouns, strict=True):  # "radio, wireless" are two synsets
        assert {noun.lower() for noun in every} <= {noun.lower() for noun in synset(name).lemma_names()}
    assert resolve_synsets(["tench, Tinca tinca", "crane, nothing like it"], [None] * 2)[0] == "tench.n.01"


def test_every_class_without_a_synset_is_told_at_once() -> None:
    with pytest.raises(MofeError) as raised:
        resolve_synsets(
            ["cat", "xqz-1", "odd", *(f"xqz-{i}" for i in range(2, 9))], [None, None, "odd.n.99", *[None] * 7]
        )
    message = str(raised.value)
    assert "9 of 10 classes have no synset: 'xqz-1': it is not a WordNet noun" in message
    assert "'odd': WordNet has no noun synset 'odd.n.99'" in message
    assert message.count("it is not a WordNet noun") == 4
    assert "Name their synsets in a synsets.csv" in message


@pytest.mark.parametrize(
    ("prototypes", "num_experts", "strategy", "message"),
    [
        (PROTOTYPES, 0, "kmeans++", "num_experts = 0"),
        (PROTOTYPES, 12, "wordnet-kmeans", "num_experts = 12"),
        (PROTOTYPES, 2, "magic", "strategy 'magic'"),
        (np.where(np.arange(11)[:, None] == 3, np.nan, PROTOTYPES), 2, "kmeans++", "'goldfish' is not finite"),
        (np.ones((11, 12)), 2, "kmeans++", "only 1 of the class prototypes differ"),
        (PROTOTYPES[:4], 2, "kmeans++", "expected a prototype for each of 11 classes, found 4"),
    ],
)
def test_what_cannot_be_partitioned(prototypes: np.ndarray, num_experts: int, strategy: str, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        partition_classes(prototypes, [None] * len(NAMES), num_experts, strategy, classes=NAMES)


def test_supercategories_cover_small_cases() -> None:
    synsets = resolve_synsets(NAMES, [None] * len(NAMES))
    assert [s.synset for s in supercategories(synsets, 1)] == ["entity.n.01"]
    each = supercategories(synsets, len(NAMES))
    assert sorted(c for s in each for c in s.classes) == list(range(len(NAMES)))
    with pytest.raises(MofeError, match="fall into only 1 synsets"):
        supercategories(["dog.n.01", "dog.n.01"], 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prototypes_CD": np.zeros(3)}, "prototypes must have 2 dimensions, not the shape"),
        ({"prototypes_CD": "ab"}, "prototypes must be an array of numbers"),
        ({"synsets": "dog.n.01"}, "synsets must be a list of texts"),
        ({"classes": "dog"}, "classes must be a list of texts"),
        ({"classes": ["dog", "cat"]}, "as many classes as synsets, not 2 classes, 3 synsets"),
        ({"seed": 2**32}, "seed = 4294967296 must lie between 0 and 4294967295"),
        ({"seed": 0.5}, "seed = 0.5 must be a whole number"),
    ],
)
def test_an_argument_of_another_kind_is_named(given: dict[str, object], message: str) -> None:
    right = {"prototypes_CD": np.eye(3), "synsets": [None] * 3, "classes": ["a", "b", "c"], "seed": 0}
    with pytest.raises(MofeError, match=message):
        partition_classes(**{"num_experts": 2, "strategy": "random", **right, **given})  # type: ignore[arg-type]


def test_the_largest_seed_is_numpys() -> None:
    assert (
        partition_classes(np.eye(3), [None] * 3, 3, "random", classes=["a", "b", "c"], seed=2**32 - 1).num_experts == 3
    )


@pytest.mark.parametrize(("strategy", "told"), [("taxonomy", [0, 2]), ("random", [])])
def test_the_senses_that_were_chosen_are_kept_where_wordnet_is_used(strategy: str, told: list[int]) -> None:
    found = partition_classes(np.eye(3), [None, "cat.n.01", None], 2, strategy, classes=["dog", "a", "goldfish"])
    assert [sense.label for sense in found.senses] == told
