"""Super-categories against what the paper prints, and against hand-made cases."""

import pytest
from timm.data import ImageNetInfo

from mofe.partitioning import resolve_synsets, supercategories


@pytest.fixture(scope="module")
def imagenet_synsets() -> list[str]:
    wnids = ImageNetInfo().label_names()
    assert len(wnids) == 1000
    return resolve_synsets(wnids, [None] * 1000)


def test_imagenet_with_seven_experts_begins_as_in_the_paper(imagenet_synsets: list[str]) -> None:
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
