"""A check that a test set has only classes of the training set, without reading images."""

from mofe.data.places import find_place
from mofe.data.sources import open_source


def classes_without_reading(uri: str, synsets: str = "") -> tuple[str, ...]:
    """The classes that prepare would find at ``uri``; none of archives, which would have to be read for that.

    Raises:
        MofeError: as for :func:`mofe.data.sources.open_source`.
    """
    return () if find_place(uri).form == "archives" else open_source(uri, synsets).classes


def untaught(test_data: str, train_data: str, synsets: str = "", most: int = 5) -> list[str]:
    """Up to ``most`` classes of the test set that the training set lacks; none if a set does not name its classes.

    Args:
        test_data: path or URI of the test set.
        train_data: path or URI of the training set.
        synsets: list of the training set's synsets, which is checked.
        most: how many classes to name.

    Raises:
        MofeError: one of the two cannot be read as labelled images.
    """
    trained = {*classes_without_reading(train_data, synsets)}
    unknown = sorted({*classes_without_reading(test_data)} - trained) if trained else []
    return unknown[:most]
