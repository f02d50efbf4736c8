"""A check that a test set has only classes of the training set, without reading images."""

from collections.abc import Iterable
from itertools import islice

from upath import UPath

from mofe.data.archives import is_hidden
from mofe.data.sources import Form, class_names, find_source, image_names, manifest_rows
from mofe.storage import locations


def untaught(test_data: str, train_data: str, most: int = 5) -> list[str]:
    """Up to ``most`` classes of the test set that the training set lacks; none if a set does not name its classes.

    Raises:
        MofeError: there is nothing at one of the two.
    """
    form, files = find_source(test_data)
    trained = _named_classes(*find_source(train_data))
    unknown: Iterable[str] = sorted(_named_classes(form, files) - trained) if trained else []
    if form == "folders":
        unknown = (name for name in unknown if image_names(files[0] / name))
    return list(islice(unknown, most))


def _named_classes(form: Form, files: list[UPath]) -> set[str]:
    """Class names that are known without reading images. Of folders, all names, although some may hold no images."""
    if not files:
        return set()
    match form:
        case "manifest":
            return {row.get("label", "") for row in manifest_rows(files[0])} - {""}
        case "tables":
            with locations.open_parquet(files[0]) as parquet:
                return set(class_names(parquet.schema_arrow) or ())
        case "folders":
            return {name for name in locations.folders(files[0]) if not is_hidden(name)}
        case "archives":
            return set()
