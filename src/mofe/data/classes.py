"""Whether a test set is of the classes that are taught, as far as that can be told without reading its images."""

from collections.abc import Iterable
from itertools import islice

from upath import UPath

from mofe.data.archives import is_hidden
from mofe.data.sources import Form, class_names, image_names, located, manifest_rows
from mofe.storage import locations


def untaught(test_data: str, train_data: str, most: int = 5) -> list[str]:
    """Some classes of the test set that the training set has not; none where neither folders nor files name them.

    Raises:
        MofeError: there is nothing at one of the two.
    """
    form, files = located(test_data)
    taught = _told(*located(train_data))
    unknown: Iterable[str] = sorted(_told(form, files) - taught) if taught else []
    if form == "folders":
        unknown = (name for name in unknown if image_names(files[0] / name))
    return list(islice(unknown, most))


def _told(form: Form, files: list[UPath]) -> set[str]:
    """The names of the classes; of folders, some of which may hold no images; nothing where images would tell."""
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
