"""Computes digests of the files that the data URIs point to now."""

import hashlib
from typing import NamedTuple

from mofe.artifacts.texts import LOCAL_MODEL
from mofe.data.classes import untaught
from mofe.data.manifest import manifest_file, manifest_rows
from mofe.data.ood_sets import check_sets
from mofe.data.places import find_place
from mofe.data.synsets import synsets_beside
from mofe.errors import MofeError
from mofe.storage import locations
from mofe.storage.weights_file import check_weights_file

NOT_FILES = ("", "random")
"""Values of ``weights`` that are not a file."""


class Fingerprints(NamedTuple):
    """A digest for each URI."""

    train: str
    test: str
    weights: str
    texts: str
    """Digest of all files of the text model."""
    ood_data: list[dict[str, str]]
    """The OOD sets, each with its ``digest`` and its ``kind`` ("" where none was given)."""


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
    """Turn data URIs into digests of the names, sizes and versions of their files, not of the content.

    The pipeline never caches this stage. The later stages take its results as parameters, so they run again exactly
    when the data at a URI has changed. It also compares the classes of the test set with those of the training set,
    where folders, a CSV manifest or the names in a Parquet file show them, because score would fail only after the
    training.

    Args:
        train_data: training images, in any form that prepare takes; the images that a CSV manifest lists count too.
        test_data: in-distribution test images.
        ood_data: out-of-distribution sets, at least one, each with a "dataset" (its name) and a "uri". Sets with the
            same "kind", near or far, get their own average.
        weights: file of the backbone's weights; "" or "random" if there is none.
        text_model: folder of a text model, if it begins with local-dir:.
        text_weights: file of a text model's weights, if it has a slash or a dot in it.
        text_embeddings: file with the embeddings of learned prompts; "" if there is none.
        synsets: CSV with the synsets of the training classes; "" counts a synsets.csv beside the data, if any.

    Raises:
        MofeError: a URI has no files, or the test set has classes that the training set does not have.
    """
    check_sets(ood_data)
    files = [text_weights] if locations.is_path(text_weights) else []
    files += [text_embeddings] if text_embeddings else []
    for file in files + ([] if weights in NOT_FILES else [weights]):
        check_weights_file(locations.resolve(file))
    if text_model.startswith(LOCAL_MODEL):
        files.insert(0, text_model.removeprefix(LOCAL_MODEL))
    train, test = _digest_of_data(train_data, synsets), _digest_of_data(test_data)
    if unknown := untaught(test_data, train_data, synsets):
        raise MofeError(
            f"the test set {test_data} has classes that the training set {train_data} does not have, among them "
            f"{', '.join(unknown)}: name its classes as the training set does, or give it as an OOD set"
        )
    return Fingerprints(
        train=train,
        test=test,
        weights="" if weights in NOT_FILES else _digest(weights),
        texts="-".join(map(_digest, files)),
        ood_data=[{"kind": "", **item, "digest": _digest_of_data(item["uri"])} for item in ood_data],
    )


def _digest(uri: str) -> str:
    return _joined([locations.digest_of_listing(uri)])


def _digest_of_data(uri: str, synsets: str = "") -> str:
    """Digest of images in any form: of the files that a glob or a split chooses, else of everything at the URI."""
    place = find_place(uri)
    parts = [locations.digest_of_listing(file) for file in place.files] if place.chosen else []
    parts = parts or [locations.digest_of_listing(uri)]
    if place.form == "manifest":
        listed = (manifest_file(place.files[0], row["path"]) for row in manifest_rows(place.files[0]))
        parts += [locations.digest_of_listing(file) if locations.kind(file) else "missing" for file in listed]
    given = locations.resolve(synsets) if synsets else synsets_beside(place.files[0])
    if synsets or locations.kind(given):
        parts.append(locations.digest_of_listing(given))
    return _joined(parts)


def _joined(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
