"""Super-categories on ImageNet-1K, which are kept as they are, and against hand-made cases."""

import pytest
from timm.data import ImageNetInfo

from mofe.partitioning import resolve_synsets, supercategories


@pytest.fixture(scope="module")
def imagenet_synsets() -> list[str]:
    wnids = ImageNetInfo().label_names()
    assert len(wnids) == 1000
    return resolve_synsets(wnids, [None] * 1000)


def test_imagenet_with_seven_experts_keeps_its_supercategories(imagenet_synsets: list[str]) -> None:
    found = supercategories(imagenet_synsets, 7)
    assert [s.synset.split(".")[0] for s in found] == [
        "chordate",
        "device",
        "domestic_animal",
        "container",
        "covering",
        "invertebrate",
        "structure",
    ]


@pytest.mark.parametrize(
    ("paths", "num_experts", "expected"),
    [
        # fewer groups than experts: the root is split although it holds no more than 2/E of the classes
        ("r/animal/dog r/animal/cat r/animal/cow r/plant/oak r/plant/fir r/thing", 2, {"animal": "012", "plant": "34"}),
        # 4 of 6 is 2/3, and not more
        ("r/b/b1 r/b/b2 r/b/b3 r/b/b4 r/a r/c", 3, {"b": "0123", "a": "4", "c": "5"}),
        # 4 of 7 is more than 2/4: split, although there would be enough without
        ("r/b/b1 r/b/b2 r/b/b3 r/b/b4 r/a r/c r/d", 4, {"a": "4", "b1": "0", "b2": "1", "b3": "2"}),
        ("r/z/z1 r/z/z2 r/z/z3 r/z/z4 r/a r/c r/d", 4, {"a": "4", "c": "5", "d": "6", "z1": "0"}),
        ("r/z/z1/q r/z/z1/p r/z/z2/o r/z/z2/n r/b r/c", 4, {"z1": "01", "z2": "23", "b": "4", "c": "5"}),
        # of two that are as large the first by name is split; its classes come after the other, by name
        ("r/y/y1 r/y/y2 r/x/x2 r/x/x1", 3, {"y": "01", "x1": "3", "x2": "2"}),
        # a class that is an inner synset: it stands for itself beside those below it, and is split no further
        ("r/animal r/animal/dog", 2, {"animal": "0", "dog": "1"}),
        ("r/animal r/animal r/animal/dog r/animal/cat", 3, {"animal": "01", "cat": "3", "dog": "2"}),
        # what stands for itself is one of those that are enough
        ("r r/a/a1 r/a/a2 r/b", 3, {"a": "12", "b": "3", "r": "0"}),
        # two that end here and are more than 2/E: nothing to split, and the rest goes on
        ("r/a r/a r/a r/b/c/d r/b/c/e", 3, {"a": "012", "d": "3", "e": "4"}),
    ],
)
def test_the_largest_are_split_until_none_is_too_large_and_there_are_enough(
    paths: str, num_experts: int, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, by the rule of the docstring; a class is its path of synsets from the root r."""
    monkeypatch.setattr("mofe.partitioning.seeds.path_from_root", lambda synset: synset.split("/"))
    found = supercategories(paths.split(), num_experts)
    assert [(s.synset, s.classes) for s in found] == [
        (name, tuple(map(int, classes))) for name, classes in expected.items()
    ]
