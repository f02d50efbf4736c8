"""The demo's data, made from files that scikit-learn and matplotlib ship: no download, no licence to accept.

In-distribution: scikit-learn's handwritten digits 0 to 7 (real scans, 8 × 8 pixels; Alpaydin and Kaynak, 1998).
Near OOD: the digits 8 and 9, by the same writers. Far OOD: letters rendered from fonts, and patches of photographs.
Both are reduced to 8 × 8 grey pixels too, so that sharpness does not separate them from the digits.
"""

import os
import shutil
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split

from mofe.errors import MofeError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SYNSETS = ("zero.n.02", "one.n.01", "two.n.01", "three.n.01", "four.n.01", "five.n.01", "six.n.01", "seven.n.01")
KNOWN = 8
PATCHES = 400

# without letters that look like a digit, in print or by hand: O o Q D C c (0), I i l J j (1), Z z (2), E (3), y A (4),
# S s (5), G b (6), T (7)
LETTERS = "BFHKLMNPRUVWXYadefghkmnpqrtuvwx"
FONTS = tuple(
    [
        "DejaVuSans",
        "DejaVuSans-Bold",
        "DejaVuSans-Oblique",
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "DejaVuSansMono",
        "STIXGeneral",
        "STIXGeneralBol",
        "STIXGeneralItalic",
        "cmr10",
        "cmss10",
        "cmtt10",
    ]
)

_COMPLETE = ".complete"


def write_digits(to: str) -> bool:
    """Write the demo's data as image folders: train, test, near-ood, far-ood-letters and far-ood-photos.

    The bytes are the same on every machine with the same versions of the libraries. A complete folder is kept.

    Args:
        to: a local folder; created if it does not exist.

    Returns:
        Whether anything was written.

    Raises:
        MofeError: ``to`` exists, and is neither the digits nor an empty folder.
    """
    target = Path(to)
    if (target / _COMPLETE).is_file():
        return False
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise MofeError(f"{target} exists, and is neither the digits nor an empty folder: name another folder")
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write_all(partial)
        if target.exists():
            target.rmdir()
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _write_all(folder: Path) -> None:
    scans, labels = load_digits(return_X_y=True)
    scans = np.rint(scans.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    known = np.flatnonzero(labels < KNOWN)
    train, test = train_test_split(known, test_size=0.25, stratify=labels[known], random_state=0)
    for name, members in (("train", train), ("test", test), ("near-ood", np.flatnonzero(labels >= KNOWN))):
        for i in members.tolist():
            _save(folder / name / NAMES[labels[i]] / f"{i:04d}.png", scans[i])
    rows = [f"{name},{synset}" for name, synset in zip(NAMES, SYNSETS, strict=False)]
    (folder / "train" / "synsets.csv").write_text("\n".join(["class,synset", *rows]) + "\n", "utf-8")
    for i, (name, pixels) in enumerate(_letters()):
        _save(folder / "far-ood-letters" / f"{i:04d}-{name}.png", pixels)
    for i, pixels in enumerate(_patches()):
        _save(folder / "far-ood-photos" / f"{i:04d}.png", pixels)
    (folder / _COMPLETE).touch()


def _save(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _letters() -> list[tuple[str, np.ndarray]]:
    """Render each letter in every font, white on black and as large in the frame as the digits."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = []
    for font_name in FONTS:
        font = ImageFont.truetype(str(folder / f"{font_name}.ttf"), 96)
        for letter in LETTERS:
            canvas = Image.new("L", (192, 192))
            ImageDraw.Draw(canvas).text((96, 96), letter, fill=255, font=font, anchor="mm")
            ink = canvas.crop(canvas.getbbox())
            frame = Image.new("L", (128, 128))
            wide = max(48, min(112, round(ink.width * 128 / ink.height)))
            frame.paste(ink.resize((wide, 128), Image.Resampling.BICUBIC), ((128 - wide) // 2, 0))
            drawn.append((letter, np.asarray(frame.resize((8, 8), Image.Resampling.BOX))))
    return drawn


def _patches() -> list[np.ndarray]:
    """Crop random grey square patches, 8 to 128 pixels wide, from scikit-learn's two photographs."""
    photos = [Image.fromarray(photo).convert("L") for photo in load_sample_images().images]
    rng = np.random.default_rng(0)
    patches: list[np.ndarray] = []
    while len(patches) < PATCHES:
        photo = photos[len(patches) % len(photos)]
        side = int(rng.integers(8, 129))
        left, top = int(rng.integers(photo.width - side)), int(rng.integers(photo.height - side))
        patch = photo.crop((left, top, left + side, top + side)).resize((8, 8), Image.Resampling.BOX)
        patches.append(np.asarray(patch))
    return patches
