"""What lies behind a data URI right now."""

import hashlib
from typing import NamedTuple

from mofe.artifacts.texts import LOCAL_MODEL
from mofe.data.classes import untaught
from mofe.data.ood_sets import check_sets
from mofe.data.sources import manifest_file, manifest_rows, synsets_beside
from mofe.errors import MofeError
from mofe.storage import locations
from mofe.storage.weights_file import check_weights_file

NOT_FILES = ("", "random")
"""What ``weights`` may be without being a file."""


class Fingerprints(NamedTuple):
    """A digest for each URI."""

    train: str
    test: str
    weights: str
    texts: str
    """Of all files that the text model comes from."""
    ood_data: list[dict[str, str]]
    """The OOD sets, each with its ``digest`` and its ``kind``, "" where it was given none."""


def fingerprint(
    train_data: str,
    test_data: str,
    ood_data: list[dict[str, str]],
    weights: str = "",
    *,
    text_model: str = "",
    text_weights: str = "",
    text_embeddings: str = "",
    synsets: str = "",
) -> Fingerprints:
    """Turn data URIs into digests of what lies there: names, sizes and versions of the files, not their content.

    In the pipeline this stage is never cached. Its results are parameters of the stages below, so they run again
    exactly when data behind a URI has changed. A test set of other classes is refused here, where folders, a CSV
    manifest or the names in a Parquet file show them: score would refuse it after the training.

    Args:
        train_data: training images, as prepare takes them; for a CSV manifest, the images it lists count too.
        test_data: in-distribution test images.
        ood_data: out-of-distribution sets, each a "dataset" (its name) and a "uri"; at least one. A "kind",
            near or far, puts a set into an average of its own.
        weights: the file of the backbone's weights; "" or "random" if there is none.
        text_model: the folder of a text model, if it begins with local-dir:.
        text_weights: the file of a text model's weights, if it has a slash or a dot in it.
        text_embeddings: the file of learned prompts' embeddings; "" if there is none.
        synsets: the CSV with the synsets of the training classes; "" counts a synsets.csv beside the data, if any.
    """
    check_sets(ood_data)
    files = [text_weights] if locations.is_path(text_weights) else []
    files += [text_embeddings] if text_embeddings else []
    for file in files + ([] if weights in NOT_FILES else [weights]):
        check_weights_file(locations.resolve(file))
    if text_model.startswith(LOCAL_MODEL):
        files.insert(0, text_model.removeprefix(LOCAL_MODEL))
    train, test = _digest(train_data, synsets), _digest(test_data)
    if unknown := untaught(test_data, train_data):
        raise MofeError(
            f"the test set {test_data} has classes that the training set {train_data} has not, among them "
            f"{', '.join(unknown)}: name its classes as the training set does, or give it as an OOD set"
        )
    return Fingerprints(
        train=train,
        test=test,
        weights="" if weights in NOT_FILES else _digest(weights),
        texts="-".join(map(_digest, files)),
        ood_data=[{"kind": "", **item, "digest": _digest(item["uri"])} for item in ood_data],
    )


def _digest(uri: str, synsets: str = "") -> str:
    path = locations.resolve(uri)
    if "*" in uri:
        parts = [locations.digest_of_listing(file) for file in locations.glob(path)]
        if not parts:
            raise MofeError(f"there are no files at {uri}")
    else:
        parts = [locations.digest_of_listing(uri)]
    if path.suffix == ".csv":
        listed = (manifest_file(path, row["path"]) for row in manifest_rows(path))
        parts += [locations.digest_of_listing(file) if locations.kind(file) else "missing" for file in listed]
    given = locations.resolve(synsets) if synsets else synsets_beside(path)
    if synsets or locations.kind(given):
        parts.append(locations.digest_of_listing(given))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
