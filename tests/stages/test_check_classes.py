"""What the classes of two image sets show before anything is computed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mofe.artifacts.image_set import ImageSet, Role, write_image_shards
from mofe.errors import MofeError
from mofe.stages.check_classes import check_classes
from mofe.storage import writing

ANIMALS = ("cat", "dog", "goldfish")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    def image_set(role: Role, classes: tuple[str, ...], synsets: tuple[str | None, ...] | None = None) -> str:
        with writing.staged(tmp_path / role) as folder:
            with write_image_shards(folder, classes) as writer:
                writer.add(b"", "x.png", 0)
            ImageSet(
                name=role, role=role, source=f"the {role} data", digest="", classes=classes,
                synsets=synsets or (None,) * len(classes), counts=tuple(writer.counts), num_listed=1, num_images=1,
                num_rejected=0, num_passed_over=0, rejected=(), passed_over=(), notes=(), parameters={},
            ).write(folder)  # fmt: skip
        return str(tmp_path / role)

    return image_set


def test_classes_that_suit_are_counted(write: Callable[..., str]) -> None:
    train = write("train", ANIMALS)
    assert check_classes(train, write("test", ANIMALS[::2]), num_experts=2) == 3
    assert check_classes(train, write("test", ANIMALS), num_experts=1, strategy="random") == 3


def test_a_test_set_of_other_classes_is_refused(write: Callable[..., str]) -> None:
    with pytest.raises(MofeError, match=r"the test data has 2 classes that the training set the train data does not "
                       r"have, among them 0, test; the training set has cat, dog, goldfish: name"):  # fmt: skip
        check_classes(write("train", ANIMALS), write("test", ("0", "dog", "test")), num_experts=1)


@pytest.mark.parametrize("strategy", ["random", "wordnet-kmeans"])
def test_more_experts_than_classes_are_refused(write: Callable[..., str], strategy: str) -> None:
    with pytest.raises(MofeError, match="num_experts = 4 must lie between 1 and the number of classes, 3"):
        check_classes(write("train", ANIMALS), write("test", ANIMALS), num_experts=4, strategy=strategy)


def test_a_class_without_a_synset_is_refused_where_one_is_needed(write: Callable[..., str]) -> None:
    classes = ("cat", "xyzzyx")
    train, test = write("train", classes), write("test", classes)
    for strategy in ("wordnet-kmeans", "taxonomy"):
        with pytest.raises(MofeError, match=r"1 of 2 classes have no synset: 'xyzzyx'.*synsets\.csv"):
            check_classes(train, test, num_experts=2, strategy=strategy)
    for strategy in ("kmeans++", "random", "self-learning"):
        assert check_classes(train, test, num_experts=2, strategy=strategy) == 2
    named = write("train", classes, (None, "magic_trick.n.01"))
    assert check_classes(named, test, num_experts=2) == 2


def test_classes_of_too_few_synsets_are_refused(write: Callable[..., str]) -> None:
    train = write("train", ANIMALS, ("cat.n.01",) * 3)
    with pytest.raises(MofeError, match="fall into only 1 synsets"):
        check_classes(train, write("test", ANIMALS), num_experts=2)


def test_of_a_comparison_every_run_is_checked(write: Callable[..., str]) -> None:
    train, test = write("train", ANIMALS), write("test", ANIMALS)
    runs = [{"parameters": {"num_experts": n, "strategy": "random"}} for n in (1.0, 3.0)]
    assert check_classes(train, test, num_experts=9, runs=runs) == 3
    runs.append({"parameters": {"num_experts": 5, "strategy": "random"}})
    with pytest.raises(MofeError, match="num_experts = 5 must lie"):
        check_classes(train, test, num_experts=1, runs=runs)
