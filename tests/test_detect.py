"""The trained detector asked about images: in memory, from anywhere, and by the command line."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import command_line, striped
from PIL import Image

from mofe import load_detector
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.scores import ScoreTable
from mofe.device import autocast
from mofe.errors import MofeError
from mofe.inference.detect import detect
from mofe.inference.detector import Detector
from mofe.inference.predictions import SCHEMA, Prediction, Unreadable
from mofe.stages.score import score

RNG = np.random.default_rng(5)


@pytest.fixture
def loaded(detector: SimpleNamespace) -> Detector:
    return load_detector(detector.detector)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images of the four known classes, and one that is none."""
    place = tmp_path / "new"
    place.mkdir()
    for i in range(8):
        (place / f"{i}.png").write_bytes(striped(i % 4, RNG))
    (place / "8.png").write_bytes(b"no image")
    return place


def test_every_form_of_an_image_scores_the_same(loaded: Detector, folder: Path) -> None:
    files = [folder / f"{i}.png" for i in range(8)]
    pictures = [Image.open(file).convert("RGB") for file in files]
    forms: list[Any] = [
        pictures, files, [str(file) for file in files], [file.as_uri() for file in files],
        [file.read_bytes() for file in files], np.stack([np.asarray(p) for p in pictures]), iter(pictures),
    ]  # fmt: skip
    expected = loaded.score(forms[0])
    for images in forms[1:]:
        found = loaded.score(images, batch_size=3)
        np.testing.assert_array_equal(found.predicted_B, expected.predicted_B)
        for name, values_B in expected.values.items():
            np.testing.assert_allclose(found.values[name], values_B, rtol=1e-4, atol=1e-4)
    for one in (pictures[0], files[0], str(files[0]), np.asarray(pictures[0])):
        assert loaded.score(one).predicted_B.tolist() == expected.predicted_B[:1].tolist()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_seen_in_the_precision_that_it_was_calibrated_in(
    loaded: Detector, folder: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def watched(precision: str) -> torch.autocast:
        asked.append(precision)
        return autocast(precision)

    monkeypatch.setattr("mofe.inference.detector.autocast", watched)
    replace(loaded, info=loaded.info.model_copy(update={"precision": precision})).score(folder / "0.png")
    assert asked == [precision]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", "image 0 cannot be scored: the file is empty"),
        ("/no/such.png", "there is no image at /no/such.png"),
        (np.zeros((4, 4, 3)), "the range of an array of float64 is unknown: give uint8"),
        ([3], "a int is not a PIL image, array, bytes, file, path or URI"),
        ([], "there are no images to score"),
        ([Image.new("RGB", (5, 5)), Image.new("RGB", (0, 5))], "image 1 cannot be scored: it has no pixels"),
        (np.zeros((0, 20, 3), np.uint8), "image 0 cannot be scored: it has no pixels"),
        (np.zeros((1, 60_000, 3), np.uint8), "it is 60000 × 1 pixels: one side is over 100 times the other"),
    ],
)
def test_what_is_no_image_is_refused(loaded: Detector, image: Any, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        loaded.score(image)


def test_what_cannot_be_asked_is_refused(loaded: Detector, folder: Path) -> None:
    for wrong, words in (({"batch_size": 0}, "batch_size = 0 .* 1"), ({"neighbours": -1}, "neighbours = -1 .* 0")):
        with pytest.raises(MofeError, match=words.replace(".*", "must be at least")):
            loaded.score(folder / "0.png", **wrong)
    with pytest.raises(MofeError, match="batch_size = 0 must be at least 1"):
        list(detect(loaded, folder, batch_size=0))
    with pytest.raises(MofeError, match=r"the detector has no score 'tuned\.mim'"):
        loaded.score(folder / "0.png", scores="tuned.mim")
    with pytest.raises(MofeError, match=r"request it: score\(images, scores=\['tuned.vim'\]\)"):
        loaded.p_values(loaded.score(folder / "0.png"), "tuned.vim")


def test_the_nearest_known_images(loaded: Detector, detector: SimpleNamespace) -> None:
    """An image of the bank is its own nearest neighbour, if it is routed to the expert of its class."""
    shards = ImageShards(detector.images)
    position = next(i for i in range(len(shards)) if shards.image(i)[1] == loaded.bank["id"][0].as_py())
    content, path, label = shards.image(position)
    scores = loaded.score([content], neighbours=3)
    assert scores.nearest_Bn.shape == scores.distance_Bn.shape == (1, 3)
    assert (np.diff(scores.distance_Bn[0]) >= 0).all()
    if scores.expert_B[0] == loaded.experts[label]:
        assert loaded.bank["id"][int(scores.nearest_Bn[0, 0])].as_py() == path
    assert loaded.score([content]).nearest_Bn.shape == (1, 0)


def test_p_values_are_those_of_the_validation_images(loaded: Detector, folder: Path) -> None:
    scores = loaded.score([folder / "0.png"])
    validation = loaded.calibration["knn"].to_numpy()
    assert len(validation) == loaded.info.num_validation
    assert loaded.p_values(scores)[0] == (1 + (validation <= scores.values["knn"][0]).sum()) / (1 + len(validation))


def test_a_prediction_an_image_in_order(loaded: Detector, folder: Path) -> None:
    found = list(detect(loaded, [str(folder)], neighbours=2, batch_size=4))
    assert found == list(detect(loaded, folder, neighbours=2, batch_size=4)), "one place, and a path"
    assert [Path(prediction.image).name for prediction in found] == [f"{i}.png" for i in range(9)]
    *good, bad = found
    assert bad == Unreadable(str(folder / "8.png"), "it is not an image that can be read")
    scores = loaded.score([folder / f"{i}.png" for i in range(8)])
    for prediction, predicted in zip(good, scores.predicted_B, strict=True):
        assert isinstance(prediction, Prediction)
        assert prediction.class_name == loaded.classes[predicted]
        assert prediction.known == (prediction.score >= loaded.thresholds["knn"])
        assert len(prediction.neighbours) == 2
        assert prediction.neighbours[0].class_name in loaded.classes


def test_thresholds(loaded: Detector, folder: Path) -> None:
    def known(**options: Any) -> list[bool]:
        return [v.known for v in detect(loaded, [str(folder)], **options) if isinstance(v, Prediction)]

    assert all(known(threshold="-10"))
    assert not any(known(threshold="10"))
    assert not any(known(threshold="fpr=0", unknown=[str(folder)]))
    assert sum(known(threshold="fpr=0.5", unknown=[str(folder)])) == 4
    assert all(known(threshold="0", score="msp"))
    with pytest.raises(MofeError, match=r"threshold 'tpr=0.9' does not use unknown images: .* fpr=SHARE$"):
        known(threshold="tpr=0.9", unknown=[str(folder)])
    with pytest.raises(MofeError, match="has no score 'odin'; it has knn, msp"):
        next(detect(loaded, [str(folder)], score="odin"))


def test_of_images_known_to_be_unknown_too_the_unreadable_are_reported(loaded: Detector, folder: Path) -> None:
    broken, *found = detect(loaded, [str(folder / "0.png")], threshold="fpr=0.5", unknown=[str(folder)])
    assert broken == Unreadable(str(folder / "8.png"), "it is not an image that can be read")
    assert len(found) == 1
    with pytest.raises(MofeError, match=r"no readable image at .*8\.png: .*8\.png: it is not an image"):
        next(detect(loaded, [str(folder)], threshold="fpr=0.5", unknown=[str(folder / "8.png")]))


def test_the_scores_it_was_compared_with(detector: SimpleNamespace, tmp_path: Path) -> None:
    """Asked one image at a time they are those of the score stage, and they decide as others do."""
    known = load_detector(detector.detector)
    names = ["pretrained.vim", "tuned.knn", "expert.mahalanobis"]
    assert set(names) < set(known.info.baselines) == set(known.thresholds) - {"knn", "msp", "max_logit", "energy"}
    score(detector.images, detector.detector, str(tmp_path / "scores"), num_workers=0, batch_size=4, precision="fp32")
    stored = ScoreTable(str(tmp_path / "scores")).table
    contents = [ImageShards(detector.images).image(i)[0] for i in range(6)]
    given = known.score(contents, scores=names, batch_size=4)
    for name in names:
        np.testing.assert_allclose(given.values[name], stored[name].to_numpy()[:6], rtol=1e-3, atol=1e-4)
    with pytest.raises(MofeError, match=r"no score 'tuned\.magic'; it has knn, "):
        known.score(contents, scores=["tuned.magic"])
    (prediction,) = detect(known, [image_file(tmp_path, contents[0])], score="expert.mahalanobis", threshold="-1e9")
    assert isinstance(prediction, Prediction)
    assert prediction.score == pytest.approx(float(given.values["expert.mahalanobis"][0]), rel=1e-3)


def image_file(folder: Path, content: bytes) -> str:
    (folder / "one.png").write_bytes(content)
    return str(folder / "one.png")


def command(*arguments: str) -> SimpleNamespace:
    return command_line("detect", *arguments)


def test_the_command(detector: SimpleNamespace, folder: Path, tmp_path: Path) -> None:
    """Every format holds the same rows; the exit status tells scripts what was found."""
    ask = ["--detector", detector.detector, str(folder), "--neighbours", "1"]
    lines = command(*ask, "--format", "jsonl", "--threshold", "-10")
    rows = [json.loads(line) for line in lines.out.splitlines()]
    assert lines.code == 4
    assert [list(row) for row in rows] == [SCHEMA.names] * 8
    assert "8 known, 0 unknown, 1 unreadable" in lines.err
    assert "8.png: it is not an image that can be read" in lines.err

    (folder / "8.png").unlink()
    table = command(*ask, "--format", "csv", "--threshold", "10")
    cells = list(csv.DictReader(io.StringIO(table.out.decode())))
    assert table.code == 3
    assert [row["class"] for row in cells] == [row["class"] for row in rows]
    assert {row["known"] for row in cells} == {"False"}

    target = tmp_path / "out.parquet"
    written = command(*ask, "--format", "parquet", "--output", str(target), "--threshold", "-10")
    assert written.code == 0, written.err
    stored = pq.read_table(target)
    assert stored.schema.equals(SCHEMA)
    assert stored["image"].to_pylist() == [row["image"] for row in rows]

    people = command(*ask)
    assert people.out.decode().count("\n") == 1 + 2 * 8

    (folder / "9.png").write_bytes(b"no image")
    measured = command(*ask[:2], str(folder / "0.png"), "--threshold", "fpr=0.5", "--unknown", str(folder))
    assert (measured.code, "1 unreadable" in measured.err) == (4, True)


def test_the_command_refuses_before_it_writes(detector: SimpleNamespace, folder: Path, tmp_path: Path) -> None:
    to_file = ("--format", "csv", "--output", str(tmp_path / "x.csv"))
    missing = command("--detector", str(tmp_path / "none"), str(folder), *to_file)
    assert missing.code == 1
    assert "there is no detector at" in missing.err
    assert not (tmp_path / "x.csv").exists()
    for_people = command("--detector", detector.detector, str(folder), "--output", "x.csv").err
    assert "--output x.csv needs --format csv: --format table is for people" in for_people
    (tmp_path / "a-run").mkdir()
    (tmp_path / "a-run/detector").symlink_to(detector.detector)
    of_a_run = command("--detector", str(tmp_path / "a-run"), str(folder), *to_file).err
    assert f"a-run is the folder of a run: use its detector, {tmp_path}/a-run/detector" in of_a_run
    assert "--format parquet needs a file" in command("--detector", detector.detector, "x", "--format", "parquet").err


@pytest.mark.integration
def test_a_reader_that_has_seen_enough_ends_it_quietly(detector: SimpleNamespace, folder: Path) -> None:
    command = [sys.executable, "-m", "mofe", "detect", "--detector", detector.detector, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        told = process.stderr.read().decode()
    assert process.returncode == 141
    assert "Error" not in told
    assert "Exception ignored" not in told
