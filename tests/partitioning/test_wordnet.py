"""What sentences call a class, and the words of WordNet; test_seeds.py and test_clusters.py look synsets up."""

import pytest

from mofe.partitioning.wordnet import name_in_words, words


@pytest.mark.parametrize(
    ("class_name", "given", "expected"),
    [
        ("n02099601", "n02099601", "golden retriever"),
        ("retriever", "golden_retriever.n.01", "golden retriever"),
        ("golden_retriever", None, "golden retriever"),
        ("7", None, "7"),
    ],
)
def test_a_class_is_called_by_its_synset_or_its_name_in_words(
    class_name: str, given: str | None, expected: str
) -> None:
    assert name_in_words(class_name, given) == expected


def test_nouns_and_adjectives() -> None:
    nouns, adjectives = words("n"), words("a")
    assert (len(nouns), len(adjectives)) == (117_798, 21_479), "of WordNet 3.0"
    assert nouns == sorted(set(nouns))
    assert {"golden retriever", "happiness"} <= set(nouns)
    assert {"happy", "well-lighted"} <= set(adjectives)
