"""Measure images per second from shards, against ImageFolder, WebDataset and Hugging Face datasets on the same JPEGs.

    python benchmarks/image_loading.py [--quick]

The JPEGs are random crops of scikit-learn's two photographs: as large as ImageNet's (500 × 375), and thumbnails
(64 × 64). All loaders have the same number of worker processes and the same batch size. The peers decode with Pillow
and use timm's transforms, for training (crop and flip) or for evaluation. Our loader draws the same crops, decodes with
TorchCodec, resizes with torchvision (values differ by at most 2 of 255), and normalises batches instead of images; the
time includes this, on the CPU.
"""

import io
import multiprocessing
import os
import statistics
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import Table, Target, alternately, options, ratio, status, write
from sklearn.datasets import load_sample_images
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

from mofe.artifacts.backbone import Preprocessing
from mofe.artifacts.image_set import ImageSet, write_image_shards
from mofe.artifacts.image_shards import ImageShards
from mofe.data.loader import (
    ShardDataset,
    batches,
    evaluation_transform,
    normalised,
    shuffled_positions,
    training_transform,
)
from mofe.stages.prepare import prepare
from mofe.storage import locations, writing

CLASSES, SEED, WORKERS, BATCH = 20, 0, 2, 64
FORK = multiprocessing.get_context("fork")  # as in the loaders
BYTES = "mofe, bytes as a GPU takes and normalises them"
ALONE = f"decoding and transform alone, {WORKERS} processes: the ceiling"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "interpolation": "bicubic"}


def write_jpegs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write class folders of JPEGs."""
    rng = np.random.default_rng(SEED)
    photographs = [Image.fromarray(photo) for photo in load_sample_images().images]
    for i in range(count):
        photograph = photographs[i % 2]
        left, top = rng.integers(0, 200), rng.integers(0, 120)
        crop = photograph.resize(size, Image.Resampling.BICUBIC, (left, top, left + 400, top + 300))
        file = folder / f"class{i % CLASSES:02d}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        crop.save(file, "JPEG", quality=90)


def write_tars(folder: Path, to: Path, each: int) -> list[str]:
    """Write the same files as WebDataset's samples, in mixed order."""
    to.mkdir()
    files = sorted(folder.rglob("*.jpg"))
    order = np.random.default_rng(SEED).permutation(len(files)).tolist()
    for start in range(0, len(files), each):
        with tarfile.open(to / f"{start // each:05d}.tar", "w") as tar:
            for i in order[start : start + each]:
                tar.add(files[i], f"{i:06d}.jpg")
                label = files[i].parent.name.removeprefix("class").encode()
                entry = tarfile.TarInfo(f"{i:06d}.cls")
                entry.size = len(label)
                tar.addfile(entry, io.BytesIO(label))
    return sorted(map(str, to.iterdir()))


def loaders(
    work: Path, size: tuple[int, int], count: int, side: int, training: bool = True
) -> tuple[dict[str, Callable[[], None]], Any]:
    """One function per loader that loads a shuffled epoch of the same files; and a factory of ours for other places."""
    import datasets
    import webdataset
    from torchvision.datasets import ImageFolder

    folder, shards_at = work / "folder", work / "shards"
    write_jpegs(folder, count, size)
    prepare(str(folder), str(shards_at), name="benchmark", role="train")
    tars = write_tars(folder, work / "tars", each=max(1, count // 8))
    preprocessing = Preprocessing(image_size=side, crop_fraction=1.0, **IMAGENET)
    if training:
        to_bytes = training_transform(preprocessing, "crop-flip")
        transform = create_transform(side, is_training=True, scale=(0.5, 1.0), hflip=0.5, color_jitter=None, **IMAGENET)
    else:
        to_bytes = evaluation_transform(preprocessing)
        transform = create_transform(side, crop_pct=1.0, **IMAGENET)
    common: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS}

    def from_shards(place: str, normalise: Callable[..., Tensor] = normalised) -> Callable[[], None]:
        dataset = ShardDataset(ImageShards(place), to_bytes, seed=SEED)

        def epoch() -> None:
            order = shuffled_positions([rows for _, _, rows in dataset.shards.row_groups], SEED, 0)
            loader = batches(dataset, order, BATCH, WORKERS)
            read(normalise(images, preprocessing) for images, _, _ in loader)

        return epoch

    image_folder = ImageFolder(str(folder), transform)
    table = datasets.Dataset.from_parquet([str(f) for f in sorted(shards_at.glob("*.parquet"))], cache_dir=str(work))

    def transformed(rows: dict[str, Any]) -> dict[str, Any]:
        return {"image": [transform(image.convert("RGB")) for image in rows["image"]], "label": rows["label"]}

    hugging_face = table.with_transform(transformed)
    web = (
        webdataset.WebDataset(tars, shardshuffle=100, seed=SEED)
        .shuffle(1000)
        .decode("pil")
        .to_tuple("jpg", "cls")
        .map_tuple(transform, int)
    )

    def read(images: Iterable[Tensor]) -> None:
        """Read all images as a forward pass does, because only then are a worker's images mapped into memory."""
        sizes = [len(batch) for batch in images if batch.amax() > 0]
        assert sum(sizes) == count

    epochs = {
        "mofe": from_shards(str(shards_at)),
        BYTES: from_shards(str(shards_at), lambda images, _: images),
        "ImageFolder": lambda: read(x for x, _ in DataLoader(image_folder, shuffle=True, **common)),
        "WebDataset": lambda: read(x for x, _ in DataLoader(web, **common)),
        "Hugging Face": lambda: read(rows["image"] for rows in DataLoader(hugging_face, shuffle=True, **common)),
    }

    def decoded(positions: range) -> None:
        dataset = ShardDataset(ImageShards(str(shards_at)), to_bytes)
        for start in range(0, len(positions), BATCH):
            dataset.__getitems__(positions[start : start + BATCH])

    def decoding() -> None:
        edges = [count * part // WORKERS for part in range(WORKERS + 1)]
        processes = [FORK.Process(target=decoded, args=(range(*part),)) for part in pairwise(edges)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            assert process.exitcode == 0

    return {**epochs, ALONE: decoding}, from_shards


def speeds(count: int, size: tuple[int, int], side: int, training: bool, rounds: int) -> tuple[list[Any], list[Target]]:
    """Measure images per second of each loader, and the upper limit set by decoding and transform."""
    with tempfile.TemporaryDirectory() as work:
        epochs, _ = loaders(Path(work), size, count, side, training)
        seconds = alternately(epochs, rounds)
    what = f"{size[0]} × {size[1]}, {'training' if training else 'evaluation'}"
    peers = ("ImageFolder", "WebDataset", "Hugging Face")
    against = {name: ratio(seconds[name], seconds["mofe"]) for name in peers}
    as_bytes = {name: ratio(seconds[name], seconds[BYTES]) for name in peers}
    ceiling = {name: ratio(seconds[name], seconds[ALONE]) for name in peers}
    best = min(("WebDataset", "Hugging Face"), key=lambda name: against[name])
    rows = [(what, name, count / statistics.median(s), ratio(s, seconds["mofe"])) for name, s in seconds.items()]
    return rows, [
        Target(f"{name}, {what}", f"≥ {wanted} ×",
               f"{against[peer]:.2f} × (bytes for a GPU: {as_bytes[peer]:.2f} ×, ceiling: {ceiling[peer]:.2f} ×)",
               against[peer] >= wanted)
        for name, peer, wanted in (("ImageFolder", "ImageFolder", 1.5), (f"best of the others ({best})", best, 1.1))
    ]  # fmt: skip


def classes_together(labels_N: np.ndarray, batch: int) -> float:
    """Mean number of classes in a batch."""
    whole = labels_N[: len(labels_N) // batch * batch].reshape(-1, batch)
    return float(np.mean([len(np.unique(row)) for row in whole[:: max(1, len(whole) // 200)]]))


def through_buffer(labels: Iterable[int], held: int) -> np.ndarray:
    """Order of the labels after a shuffle buffer of ``held`` samples, as in WebDataset."""
    rng, stream = np.random.default_rng(SEED), iter(labels)
    buffer, out = list(islice(stream, held)), []
    for label in stream:
        i = int(rng.integers(held))
        out.append(buffer[i])
        buffer[i] = label
    return np.array(out + buffer)


def shuffling(images_per_class: int, classes: int) -> list[Any]:
    """Measure how mixed a batch of 256 is, from shards sorted by class (the worst case) and from mixed shards."""
    rng = np.random.default_rng(SEED)
    in_order = np.repeat(np.arange(classes), images_per_class)
    mixed = rng.permutation(in_order)
    groups = [64] * (len(in_order) // 64)
    order = shuffled_positions(groups, SEED, 0)
    shards = np.concatenate([np.split(in_order, 100)[i] for i in rng.permutation(100)])
    return [
        ("global shuffle", classes_together(rng.permutation(in_order), 256), classes_together(mixed, 256)),
        ("mofe: windows of 64 row groups of 64",
         *(classes_together(labels[order], 256) for labels in (in_order, mixed))),
        ("WebDataset: shards, then a buffer of 1000",
         *(classes_together(through_buffer(labels, 1000), 256) for labels in (shards, mixed))),
    ]  # fmt: skip


def memory_over_an_epoch(count: int) -> list[float]:
    """Memory of this process in GB after each quarter of a shuffled epoch of 50 kB images."""
    with tempfile.TemporaryDirectory() as work:
        names = ("one",)
        with writing.staged(f"{work}/set") as place:
            with write_image_shards(place, names) as writer:
                content = np.random.default_rng(SEED).bytes(50_000)
                for i in range(count):
                    writer.add(content, str(i), 0)
            ImageSet(
                name="memory", role="ood", source="", digest="", classes=names, synsets=(None,), counts=(count,),
                num_listed=count, num_images=count, num_rejected=0, num_passed_over=0, rejected=(), passed_over=(),
                notes=(), parameters={},
            ).write(place)  # fmt: skip
        shards = ImageShards(f"{work}/set")
        order = shuffled_positions([rows for _, _, rows in shards.row_groups], SEED, 0)
        found = []
        for quarter in np.array_split(order, 4):
            for position in quarter.tolist():
                shards.image(position)
            found.append(int(status("VmRSS")) / 1e6)
    return found


def from_s3(count: int, size: tuple[int, int], side: int, rounds: int) -> list[Any]:
    """Images per second from an S3 server on this machine (that of the tests), and from its disk."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    import pytest
    import s3fs
    from servers import swift

    with tempfile.TemporaryDirectory() as work:
        try:
            server = swift(Path(work))
            server.start()
        except pytest.skip.Exception as reason:
            print(f"s3:// is not measured: {reason}")
            return []
        try:
            os.environ.update(server.environment)
            (Path(work) / "data").mkdir()
            s3fs.S3FileSystem().mkdir("benchmark")
            _, from_shards = loaders(Path(work) / "data", size, count, side)
            local = Path(work) / "data" / "shards"
            writing.copy_folder(local, locations.resolve("s3://benchmark/shards"))
            places = {"local": str(local), "s3://": "s3://benchmark/shards"}
            seconds = alternately({name: from_shards(place) for name, place in places.items()}, rounds)
        finally:
            server.kill()
    return [(name, count / statistics.median(s), ratio(s, seconds["local"])) for name, s in seconds.items()]


def main() -> None:
    """Measure, print and write the figures."""
    given = options(__doc__ or "")
    torch.set_num_threads(1)
    large, small, side, rounds, per_class, classes, held = (
        (1024, (500, 375)),
        (6144, (64, 64)),
        224,
        3,
        1280,
        1000,
        12_288,
    )
    if given.quick:
        large, small, side, rounds, per_class, classes, held = (64, (50, 38)), (64, (16, 16)), 16, 1, 64, 100, 256
    rows, targets = [], []
    thumbnail = min(side, small[1][0])
    for (count, size), pixels, training in ((large, side, True), (large, side, False), (small, thumbnail, True)):
        of_size, of_targets = speeds(count, size, pixels, training, rounds)
        rows += of_size
        targets += of_targets
    s3 = [] if given.quick else from_s3(*large, side, rounds - 1)
    quarters = memory_over_an_epoch(held)
    grown = quarters[-1] / quarters[1] - 1
    targets.append(Target("memory over an epoch", "flat", f"{grown:+.1%} from its half to its end", grown < 0.05))
    tables = [
        Table(f"An epoch, {WORKERS} workers, batches of {BATCH}", ("images", "", "images/s", "time, mofe = 1"), rows),
        Table("From an S3 server on this machine (OpenStack Swift)", ("", "images/s", "time, local = 1"),
              s3 or [("s3://", None, None)]),
        Table(f"Classes in a batch of 256, of {classes}", ("", "shards in the order of classes", "mixed shards"),
              shuffling(per_class, classes)),
        Table(f"Memory of one process, {held:,} images of 50 kB", ("after", "GB"),
              [(f"{25 * (i + 1)} %", gb) for i, gb in enumerate(quarters)]),
    ]  # fmt: skip
    notes = [
        "Files and shards lie in the page cache. What a disk or a store takes to open a file comes on top: once an "
        "image for ImageFolder, once a row group of 64 for the shards.",
        "`prepare` mixes class folders as it writes them; Parquet and tar sources keep their order.",
    ]
    write("image_loading", given, tables, targets, notes, seed=SEED, rounds=rounds, workers=WORKERS, batch=BATCH)


if __name__ == "__main__":
    main()
