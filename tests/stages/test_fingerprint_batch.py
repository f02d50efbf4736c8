"""fingerprint_batch: the digest changes exactly when the files do."""

from pathlib import Path

import pytest

from mofe.errors import MofeError
from mofe.stages.fingerprint_batch import fingerprint_batch


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("new/a.png", "new/b.jpg", "detector/detector.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path / "new", tmp_path / "detector"


def test_images_and_detector_both_count(places: tuple[Path, Path]) -> None:
    new, detector = places
    asked = ([str(new)], str(detector))
    first = fingerprint_batch(*asked)
    assert fingerprint_batch(*asked) == first
    (new / "c.png").write_text("c")
    second = fingerprint_batch(*asked)
    (detector / "detector.json").write_text("another")
    assert len({first, second, fingerprint_batch(*asked)}) == 3


def test_a_glob_is_what_it_matches(places: tuple[Path, Path]) -> None:
    new, detector = places
    only_png = fingerprint_batch([f"{new}/*.png"], str(detector))
    (new / "d.jpg").write_text("d")
    assert fingerprint_batch([f"{new}/*.png"], str(detector)) == only_png
    (new / "a.png").rename(new / "z.png")
    assert fingerprint_batch([f"{new}/*.png"], str(detector)) != only_png


def test_a_folder_whose_name_could_be_a_pattern_is_itself(places: tuple[Path, Path]) -> None:
    strange = places[0].rename(places[0].with_name("n[ew]*"))
    before = fingerprint_batch([str(strange)], str(places[1]))
    (strange / "c.png").write_text("c")
    assert fingerprint_batch([str(strange)], str(places[1])) != before
    assert fingerprint_batch([f"{strange.parent}/n*/?.png"], str(places[1])), "and a pattern is a pattern"


@pytest.mark.parametrize(("images", "message"), [([], "images is empty"), (["*.none"], "no file matches")])
def test_nothing_is_refused(places: tuple[Path, Path], images: list[str], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        fingerprint_batch([f"{places[0]}/{image}" for image in images], str(places[1]))
    with pytest.raises(MofeError, match=r"there are no files at|there is no data at"):
        fingerprint_batch([str(places[0])], str(places[1] / "none"))
