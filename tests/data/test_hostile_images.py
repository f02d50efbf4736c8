"""Hundreds of damaged, odd and hostile files through prepare and detect: no crash, no hang, no unbounded memory."""

import io
import os
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mofe import load_detector
from mofe.artifacts.image_set import ImageSet
from mofe.artifacts.image_shards import ImageShards
from mofe.data.images import decode, stored_form
from mofe.errors import MofeError
from mofe.inference.detect import detect
from mofe.inference.predictions import Prediction, Unreadable, on_one_line, write
from mofe.stages.prepare import prepare

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8))
LARGEST_RISE = 400 << 20
"""Bytes by which the corpus may raise a process's memory: less than any of its bombs would."""


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def png_of(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG whose header says what it wants."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def rotated(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PHOTO, kind, exif=exif)


def odd() -> dict[str, bytes]:
    """Files that are unusual and whole: each must be read."""
    frames = {"save_all": True, "append_images": [Image.new("RGB", PHOTO.size, "red")]}
    palette = PHOTO.quantize(16)
    return {
        **{f"mode-{mode}.png": encoded(PHOTO.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")},
        **{f"cmyk.{kind}": encoded(PHOTO.convert("CMYK"), kind) for kind in ("jpeg", "tiff")},
        **{f"mode-{mode}.tiff": encoded(PHOTO.convert(mode), "TIFF") for mode in ("YCbCr", "LAB")},
        "deep.png": encoded(Image.fromarray(np.arange(480, dtype=np.uint16).reshape(20, 24) * 100), "PNG"),
        "palette.png": encoded(palette, "PNG", transparency=3),
        "palette-alphas.png": encoded(palette, "PNG", transparency=bytes(range(16))),
        "palette.gif": encoded(palette, "GIF", transparency=3),
        **{f"moving.{kind}": encoded(PHOTO, kind, **frames) for kind in ("gif", "webp", "png", "tiff")},
        **{f"turned-{n}.{kind}": rotated(n, kind) for n in range(1, 9) for kind in ("jpeg", "png", "webp", "tiff")},
        **{f"one.{kind}": encoded(Image.new("RGB", (1, 1)), kind) for kind in ("png", "jpeg", "webp", "bmp", "gif")},
        "long.png": encoded(Image.new("L", (20_000, 200)), "PNG"),
        "progressive.jpg": encoded(PHOTO, "JPEG", progressive=True),
        "png-by-content.jpg": encoded(PHOTO, "PNG"),
        "gif-by-content.png": encoded(PHOTO, "GIF"),
        "UPPER.JPG": encoded(PHOTO, "JPEG"),
        "with\nline\rbreaks.png": encoded(PHOTO, "PNG"),
        "\x1b[2Jclears the screen.png": encoded(PHOTO, "PNG"),
        os.fsdecode(b"latin-\xe9\xff.png"): encoded(PHOTO, "PNG"),
        "ünï-代码-🦆.png": encoded(PHOTO, "PNG"),
        f"{'n' * 250}.png": encoded(PHOTO, "PNG"),
    }


def damaged() -> dict[str, bytes]:
    """Files cut off at many places; what is lost may be no pixels at all."""
    cut = {}
    for kind in ("jpeg", "png", "webp", "gif", "bmp", "tiff"):
        whole = encoded(PHOTO, kind)
        cut |= {f"cut-{at:05d}.{kind}": whole[:at] for at in np.linspace(1, len(whole) - 1, 24).astype(int).tolist()}
    return cut


def bad() -> dict[str, bytes]:
    """Files that must be set aside."""
    whole = encoded(PHOTO, "JPEG")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(would run) print\n%%EOF\n"
    return {
        "empty.jpg": b"",
        "zeros.png": bytes(5000),
        "text.jpeg": b"no image",
        "page.png": b"<html><script>alert(1)</script></html>",
        "program.jpg": text,
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='1' height='1'/>",
        "huge.png": png_of(30_000, 30_000, zlib.compress(b"")),
        "bomb.png": png_of(30_000, 30_000, zlib.compress(bytes(30_000 * 3 + 1) * 300, 9)),
        "largest.png": png_of(2**31 - 1, 2**31 - 1),
        "nothing.png": png_of(0, 0),
        "huge.gif": b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + encoded(PHOTO, "GIF")[10:],
        "huge.bmp": encoded(PHOTO, "BMP")[:18] + struct.pack("<ii", 40_000, 40_000) + encoded(PHOTO, "BMP")[26:],
        "headless.jpg": whole[20:],
        "thread.png": png_of(1, 101),
        **{f"white-unknown-{mode}.tiff": encoded(PHOTO.convert(mode), "TIFF") for mode in ("F", "I")},
        "not-finite.tiff": encoded(Image.fromarray(np.full((8, 9), np.nan, np.float32)), "TIFF"),
        "text-bomb.png": encoded(PHOTO, "PNG")[:33] + text_chunk(b"k\0\0" + zlib.compress(bytes(80 << 20), 9)),
    }


def text_chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))


LINKS = {"out.png": "../outside.png", "passwd.jpg": "/etc/passwd", "dangling.jpg": "none", "zero.jpg": "/dev/zero"}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, content in {**odd(), **damaged(), **bad()}.items():
        (folder / name).write_bytes(content)
    (tmp_path / "outside.png").write_bytes(encoded(PHOTO, "PNG"))
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    (folder / "inside.png").symlink_to("deep.png")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    assert len(list(folder.iterdir())) >= 200
    return folder


def as_shown(names: object) -> set[str]:
    return {os.fsencode(str(name)).decode(errors="backslashreplace") for name in names}  # type: ignore[attr-defined]


@pytest.mark.integration
def test_prepare_takes_what_is_whole_and_lists_the_rest(corpus: Path, tmp_path: Path) -> None:
    code = (
        "import resource; most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "from mofe.stages.prepare import prepare; before = most()\n"
        f"prepare({str(corpus)!r}, {str(tmp_path / 'out')!r}, name='x', role='ood', max_rejected=1.0)\n"
        "print('rise', most() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split("rise ")[1]) << 10 < LARGEST_RISE
    info = ImageSet.read(str(tmp_path / "out"))
    refused = {r.path: r.reason for r in info.rejected}
    assert as_shown(bad()) | {"pipe.jpg", "loop", *LINKS} <= set(refused)
    assert not as_shown([*odd(), "inside.png"]) & set(refused)
    assert all(refused.values())
    assert "leads out of the folder" in refused["out.png"]
    assert "a link to a folder" in refused["loop"]
    assert refused["pipe.jpg"] == "it is not a regular file"
    assert refused["program.jpg"] == "it is not an image that can be read"
    paths = ImageShards(str(tmp_path / "out")).paths.to_pylist()
    assert sorted([*paths, *refused]) == sorted(as_shown(p.name for p in corpus.iterdir())), "nothing lost"
    for path in set(paths) & set(damaged()):
        lost = 20 * 24 * 3 - (np.asarray(decode((corpus / path).read_bytes())) == whole_of(path)).sum()
        assert lost == 0, f"{path} was taken with pixels that are not its own"


def whole_of(path: str) -> np.ndarray:
    return np.asarray(decode(encoded(PHOTO, path.rsplit(".")[-1])))


def test_detect_gives_a_prediction_or_a_reason(corpus: Path, detector: SimpleNamespace) -> None:
    loaded = load_detector(detector.detector)
    before = max_memory()
    found = list(detect(loaded, [str(corpus)]))
    predictions = {Path(v.image).name for v in found if isinstance(v, Prediction)}
    reasons = {Path(v.image).name: v.reason for v in found if isinstance(v, Unreadable)}
    assert len(found) == len(list(corpus.iterdir()))
    assert as_shown(odd()) <= predictions
    assert as_shown(bad()) <= set(reasons)
    assert all(reasons.values())
    assert (max_memory() - before) << 10 < LARGEST_RISE
    stream = io.BytesIO()
    write((v for v in found if isinstance(v, Prediction)), stream, "parquet")  # its names are text


def max_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


TURNED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 3),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_every_orientation_is_set_upright(orientation: int, kind: str) -> None:
    content = rotated(orientation, kind)
    as_saved = np.asarray(Image.open(io.BytesIO(content)))
    if kind == "tiff":  # Pillow turns these itself, as it reads them
        as_saved = np.asarray(PHOTO)
    upright = TURNED[orientation](as_saved)
    np.testing.assert_array_equal(np.asarray(decode(content)), upright)
    np.testing.assert_array_equal(np.asarray(decode(stored_form(content))), upright)


def test_metadata_that_lies_is_a_reason_and_no_crash() -> None:
    whole = rotated(6, "jpeg")
    start = whole.index(b"Exif\0\0")
    rng = np.random.default_rng(0)
    for _ in range(200):
        spoiled = bytearray(whole)
        for at in rng.integers(start, start + 40, 3):
            spoiled[at] = rng.integers(256)
        try:
            stored_form(bytes(spoiled))
        except ValueError as error:
            assert str(error)


def test_a_class_whose_name_is_not_text_matters_where_classes_do(tmp_path: Path) -> None:
    folder = tmp_path / "in" / os.fsdecode(b"caf\xe9")
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(encoded(PHOTO, "PNG"))
    with pytest.raises(MofeError, match=r"not UTF-8, caf\\xe9: rename"):
        prepare(str(tmp_path / "in"), str(tmp_path / "out"), name="x", role="train")
    prepare(str(tmp_path / "in"), str(tmp_path / "out"), name="x", role="ood")
    assert ImageSet.read(str(tmp_path / "out")).num_images == 1


def test_names_cannot_forge_lines() -> None:
    assert on_one_line("a\nknown \x1b[2J ü.png") == "a\\nknown \\x1b[2J ü.png"
