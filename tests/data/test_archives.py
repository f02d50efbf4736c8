"""Images in tar archives: class folders, WebDataset, and archives that are not whole or lead elsewhere."""

import io
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import striped

from mofe.artifacts.image_shards import ImageShards
from mofe.data.listing import list_images
from mofe.data.sources import LabelledImage, open_source
from mofe.errors import MofeError
from mofe.stages.prepare import prepare

PNG = striped(0, np.random.default_rng(0))


def archive(path: Path, files: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tgz", "w"), ("a.tar", "w:gz")]
)
def test_class_folders(tmp_path: Path, name: str, mode: str) -> None:
    files = {"./tabby/1.png": PNG, "./tabby/2.PNG": PNG, "./teapot/deep/1.png": PNG, "./README": b"text"}
    source = open_source(archive(tmp_path / name, files, mode))
    assert source.classes == ("tabby", "teapot")
    assert source.total == 3
    assert [(i.label, i.read()) for i in source.images()] == [(0, PNG), (0, PNG), (1, PNG)]


def test_webdataset(tmp_path: Path) -> None:
    """Shards by a glob; the class comes before or after its image, as a number or a name."""
    archive(
        tmp_path / "00.tar", {"s/1.png": PNG, "s/1.cls": b"10\n", "s/1.json": b"{}", "s/2.cls": b"9", "s/2.png": PNG}
    )
    archive(tmp_path / "01.tar", {"s/3.left.png": PNG, "s/3.cls": b"10"})
    for uri in (f"{tmp_path}/*.tar", str(tmp_path)):
        source = open_source(uri)
        assert source.classes == ("9", "10")
        assert [image.label for image in source.images()] == [1, 0, 1]


@pytest.mark.parametrize("hurt", ["a header", "the end", "compressed"])
@pytest.mark.parametrize("images", [open_source, lambda uri: list(list_images([uri]))])
def test_an_archive_that_is_damaged_or_cut_off_is_not_taken_for_a_shorter_one(
    tmp_path: Path, hurt: str, images: Callable[[str], object]
) -> None:
    name, mode = ("a.tgz", "w:gz") if hurt == "compressed" else ("a.tar", "w")
    rng = np.random.default_rng(0)
    uri = archive(tmp_path / name, {f"{c}/{i}.png": rng.bytes(3000) for c in range(2) for i in range(9)}, mode)
    whole = Path(uri).read_bytes()
    cut = bytearray(whole)
    if hurt == "compressed":
        cut[-8] ^= 1  # of its checksum
    else:
        with tarfile.open(uri) as tar:
            at = tar.getmembers()[9].offset
        if hurt == "a header":
            cut[at + 10] ^= 1
        else:
            del cut[at:]
    Path(uri).write_bytes(cut)
    with pytest.raises(MofeError, match="is not a whole tar archive"):
        images(uri)


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    names = ["./dog/1.png", "./dog/._1.png", "./.ipynb_checkpoints/0.png", "./__MACOSX/dog/1.png"]
    archive(tmp_path / "a.tar", dict.fromkeys(names, PNG))
    for name in names:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(PNG)
    for place in ("a.tar", "folder"):
        source = open_source(str(tmp_path / place))
        assert (source.classes, source.total) == (("dog",), 1)
        assert len(list(list_images([str(tmp_path / place)]))) == 1


def test_prepare_reads_them(tmp_path: Path) -> None:
    files = {f"{c}/{i}.png": striped(c, np.random.default_rng(i)) for i in range(4) for c in range(2)}
    prepare(archive(tmp_path / "a.tar", files), str(tmp_path / "images"), name="train", role="train")
    shards = ImageShards(str(tmp_path / "images"))
    assert shards.labels_N.tolist() == [0, 1] * 4
    assert shards.image(3)[:2] == (files["1/1.png"], "1/1.png")


def test_archives_without_labels(tmp_path: Path) -> None:
    uri = archive(tmp_path / "a.tar", {"1.png": PNG, "2.png": PNG})
    assert [image.path for image in list_images([uri])] == ["1.png", "2.png"]
    assert open_source(uri).classes == ()


@pytest.mark.integration
@pytest.mark.parametrize("images", [lambda uri: open_source(uri).images(), lambda uri: list_images([uri])])
def test_one_image_is_held_at_a_time_whatever_the_names(
    tmp_path: Path, images: Callable[[str], Iterator[LabelledImage]]
) -> None:
    """Names that are the same up to their first dot are one sample of WebDataset's."""
    files = {f"s/frame.{i:06d}.jpg": bytes(1 << 18) for i in range(64)} | {"s/frame.cls": b"7"}
    uri = archive(tmp_path / "a.tar", files)
    tracemalloc.start()
    assert sum(len(image.read()) for image in images(uri)) == 64 << 18
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 << 20
    assert open_source(uri).classes == ("7",)


def test_an_archive_to_ask_about_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = archive(tmp_path / "a.tar", {"1.png": PNG, "2.png": PNG})
    empty = archive(tmp_path / "b.tar", {"notes.txt": b""})
    opened = []
    real = tarfile.open
    monkeypatch.setattr(tarfile, "open", lambda **options: opened.append(options) or real(**options))
    assert [image.read() for image in list_images([full])] == [PNG, PNG]
    assert len(opened) == 1
    with pytest.raises(MofeError, match="there are no images in"):
        list(list_images([empty]))


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("c/out.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(MofeError, match="there are no images in"):
        open_source(f"{tmp_path}/a.tar")


def test_an_archive_that_is_not_whole(tmp_path: Path) -> None:
    whole = Path(archive(tmp_path / "a.tar", {f"c/{i}.png": PNG for i in range(4)})).read_bytes()
    for content in (whole[:700], b"no archive at all" * 100):
        (tmp_path / "b.tar").write_bytes(content)
        with pytest.raises(MofeError, match=r"b\.tar is not a whole tar archive"):
            list(list_images([f"{tmp_path}/b.tar"]))


def test_some_images_without_a_class(tmp_path: Path) -> None:
    with pytest.raises(MofeError, match=r"2\.png has no class"):
        open_source(archive(tmp_path / "a.tar", {"c/1.png": PNG, "2.png": PNG}))
