"""``mofe data check`` on folders that hold one of each fault."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mofe.cli.check import check
from mofe.errors import MofeError


def picture(seed: int) -> Image.Image:
    """A picture with a photograph's spectrum."""
    noise = np.random.default_rng(seed).standard_normal((3, 48, 64))
    frequency = np.hypot(np.fft.fftfreq(48)[:, None], np.fft.fftfreq(64)[None])
    values = np.fft.ifft2(np.fft.fft2(noise) / np.maximum(frequency, 1 / 64) ** 1.2).real
    levels = 127 + 50 * (values - values.mean()) / values.std()
    return Image.fromarray(np.clip(levels, 0, 250).astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes with four images each to train on, a test set, an OOD set."""
    for number, name in enumerate(("crane", "kite", "n02099601")):
        place = tmp_path / "train" / name
        place.mkdir(parents=True)
        for i in range(4):
            picture(10 * number + i).save(place / f"{i}.png")
    (tmp_path / "test" / "kite").mkdir(parents=True)
    picture(100).save(tmp_path / "test" / "kite" / "new.png")
    (tmp_path / "ood").mkdir()
    picture(200).save(tmp_path / "ood" / "new.png")
    return tmp_path


def lines(capsys: pytest.CaptureFixture[str], *uris: Path) -> str:
    check(tuple(map(str, uris)))
    return capsys.readouterr().out


def test_clean_data(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = lines(capsys, folder / "train", folder / "test", folder / "ood")
    assert "12 entries: 12 images of 3 classes, 0 rejected, 0 passed over" in text
    assert "shorter side 48 to 48 pixels, median 48; 12 PNG" in text
    assert "copies:\n  none among 14 images" in text


def test_each_class_has_its_sense(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = lines(capsys, folder / "train")
    assert "n02099601       4  golden_retriever.n.01: an English breed having a long silky golden coat" in text
    assert "crane           4  crane.n.01: " in text
    assert "4  kite.n.01: " in text


def test_what_is_no_image_is_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train/kite/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    (folder / "train/kite/notes.txt").write_text("about kites")
    (folder / "train/kite/.hidden.png").write_bytes(b"x")
    text = lines(capsys, folder / "train")
    assert "15 entries: 12 images of 3 classes, 1 rejected, 2 passed over" in text
    assert "rejected: kite/broken.jpg: " in text
    assert "notes.txt" in text
    assert ".hidden.png" in text


def test_copies_within_and_between(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "train/crane/0.png", folder / "train/kite/copy.png")
    picture(1).save(folder / "test/kite/leaked.jpg", quality=70)
    picture(200).resize((32, 24)).save(folder / "test/kite/small.png")
    text = lines(capsys, folder / "train", folder / "test", folder / "ood")
    assert f"in {folder}/train, copies of others in it: 1 of 13 images\n" in text
    within = [line for line in text.splitlines() if "the same file" in line]
    assert len(within) == 1
    assert {"crane/0.png", "kite/copy.png"} <= set(within[0].replace(",", "").split())
    assert "but is" in within[0]
    assert f"in {folder}/test, copies of images of {folder}/train: 1 of 3 images; remove them\n" in text
    assert "kite/leaked.jpg looks like crane/1.png, but is kite, not crane" in text
    assert f"in {folder}/ood, copies of images of {folder}/test: 1 of 1 images; is that intended?\n" in text


def test_labels_that_cannot_be_used_leave_an_ood_set(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "train" / "Crane").mkdir()
    picture(300).save(folder / "train" / "Crane" / "0.png")
    text = lines(capsys, folder / "train")
    assert "usable as an OOD set only, because its labels cannot be used: " in text
    assert "'Crane'" in text


def parameters(folder: Path, **more: object) -> Path:
    root = Path(__file__).parents[1]
    small = yaml.safe_load((root / "examples/digits.yaml").read_text())
    given = {name: small[name] for name in ("backbone", "backbone_args", "precision")}
    given |= {"train_data": f"{folder}/train", "test_data": f"{folder}/test", "num_workers": 0}
    given |= {"ood_data": [{"dataset": "ood", "uri": f"{folder}/ood"}], "weights": str(root / small["weights"])} | more
    file = folder / "params.yaml"
    file.write_text(yaml.safe_dump(given))
    return file


def test_a_parameter_file_names_the_sources(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(params=parameters(folder))
    text = capsys.readouterr().out
    assert [line.split(":")[0] for line in text.splitlines() if line.startswith(str(folder))] == [
        f"{folder}/{name}" for name in ("train", "test", "ood")
    ]


def test_the_backbone_doubts_a_wrong_label(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two kinds of image that any backbone tells apart: dark ones and bright ones with stripes."""
    shutil.rmtree(folder / "train")
    noise = np.random.default_rng(0)
    for name in ("dark", "striped"):
        for i in range(8):
            pixels = noise.integers(0, 30, (32, 32, 3))
            pixels[::4] += 220 * (name == "striped")
            wrong = name == "dark" and i == 5
            place = folder / "train" / ("striped" if wrong else name)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{name}-{i}.png")
    check(params=parameters(folder, test_data=f"{folder}/ood", ood_data=[{"dataset": "o", "uri": f"{folder}/ood"}]),
          features=True)  # fmt: skip
    text = capsys.readouterr().out
    doubted = text[text.index("labels that the neighbours doubt:") :]
    assert f"1 of 9 images of 'striped' in {folder}/train\n    striped/dark-5.png looks like 'dark'\n" in doubted


@pytest.mark.parametrize("given", [{}, {"uris": ("a",), "features": True}])
def test_what_is_missing_is_said(given: dict[str, object]) -> None:
    with pytest.raises(MofeError, match=r"-f params\.yaml"):
        check(**given)  # type: ignore[arg-type]
