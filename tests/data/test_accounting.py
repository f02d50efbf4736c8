"""Every entry of a source ends as an image, as rejected, or as passed over; the three counts are what was listed."""

import io
import json
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import striped

from mofe.artifacts.image_set import ImageSet, Role
from mofe.artifacts.image_shards import ImageShards
from mofe.data.entries import EMPTY, HIDDEN, LABEL, MARKER, OVER_LIMIT, SYNSETS_FILE, TEXT
from mofe.errors import MofeError
from mofe.stages.prepare import prepare

PNG = striped(0, np.random.default_rng(0))


def write(root: Path, *names: str, content: bytes = PNG) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def prepared(source: object, out: Path, role: Role = "train", **options: object) -> ImageSet:
    prepare(str(source), str(out), name=out.name, role=role, **{"max_rejected": 1.0, **options})  # type: ignore[arg-type]
    info = ImageSet.read(str(out))
    assert info.num_images + info.num_rejected + info.num_passed_over == info.num_listed
    assert info.num_images == len(ImageShards(str(out)))
    return info


def labels(out: Path) -> dict[str, str]:
    """The class of each image by its path."""
    shards = ImageShards(str(out))
    found = (shards.image(i) for i in range(len(shards)))
    return {path: shards.info.classes[label] if label >= 0 else "" for _, path, label in found}


def reasons(entries: tuple[object, ...]) -> dict[str, str]:
    return {entry.path: entry.reason for entry in entries}  # type: ignore[attr-defined]


def pictures(root: Path, classes: str = "cat dog", each: int = 3) -> Path:
    return write(root, *(f"{c}/{i}.png" for c in classes.split() for i in range(each)))


def test_class_folders_with_all_that_lies_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pictures(tmp_path / "in")
    write(root, "cat/noext", "dog/photo.txt", "dog/photo.xyz", "cat/p.jfif")  # images, whatever their names
    write(root, "cat/notes.txt", "README", "dog/0.xml", content=b"<text/>")
    write(root, "dog/clip.mp4", "cat/old.zip", content=b"PK\x03\x04" + bytes(range(256)))
    write(root, "dog/page.jpg", "cat/drawing.svg", content=b"<svg/>")
    write(root, "cat/.DS_Store", ".net/0.png", "cat/Thumbs.db", "__MACOSX/0.png")
    write(root, "synsets.csv", content=b"class,synset\n")
    write(root, "cat/__init__.py", content=b"")
    write(root, "cat/empty.png", content=b"")
    (root / "cat" / "gone.png").symlink_to("nowhere")
    (root / "dog" / "more").symlink_to(root / "cat")
    info = prepared(root, tmp_path / "out")
    assert (info.num_images, info.num_listed) == (10, sum(len(files) for _, _, files in os.walk(root)) + 1)
    assert set(reasons(info.rejected)) == {
        "dog/clip.mp4", "cat/old.zip", "dog/page.jpg", "cat/drawing.svg", "cat/empty.png", "cat/gone.png", "dog/more",
    }  # fmt: skip
    assert reasons(info.passed_over) == {
        "cat/notes.txt": TEXT, "README": TEXT, "dog/0.xml": TEXT, "cat/__init__.py": EMPTY, "synsets.csv": SYNSETS_FILE,
        "cat/.DS_Store": HIDDEN, ".net/0.png": HIDDEN, "cat/Thumbs.db": HIDDEN, "__MACOSX/0.png": HIDDEN,
    }  # fmt: skip
    told = capsys.readouterr().out
    assert "26 entries: 10 images of 2 classes, 7 rejected, 9 passed over" in told
    assert ".net/0.png" in told


@pytest.mark.parametrize("form", ["folders", "tar"])
def test_a_class_without_any_usable_image_is_named(tmp_path: Path, form: str) -> None:
    root = pictures(tmp_path / "in")
    for spoil, message in (
        (lambda: (root / "fish").mkdir(), "without any image: fish"),
        (lambda: write(root, "fish/.hidden.png"), "without any image: fish"),
        (lambda: write(root, "fish/notes.txt", content=b"text"), r"fish( \(0\)|; remove)"),
        (lambda: write(root, "fish/1.png", "fish/2.png", content=b"none"), r"fish \(0\)"),
    ):
        spoil()
        source = root
        if form == "tar":
            source = tmp_path / "in.tar"
            with tarfile.open(source, "w") as tar:
                tar.add(root, ".")
        for role in ("train", "test"):
            with pytest.raises(MofeError, match=message):
                prepared(source, tmp_path / "out", role)  # type: ignore[arg-type]
        assert prepared(source, tmp_path / "ood", "ood").num_images == 6
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "in", "cat dog fish")
    scan = os.scandir

    def refuses(folder: str | Path) -> object:
        if Path(folder).name == "fish":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuses)
    for role in ("train", "ood"):
        with pytest.raises(MofeError, match=r"in/fish: .*Permission denied"):
            prepared(root, tmp_path / "out", role)  # type: ignore[arg-type]


def test_images_beside_class_folders_whatever_their_names(tmp_path: Path) -> None:
    root = write(pictures(tmp_path / "in"), "noext")
    with pytest.raises(MofeError, match=r"both images \(noext\) and folders"):
        prepared(root, tmp_path / "out")
    assert prepared(root, tmp_path / "ood", "ood").num_images == 7, "labels of an OOD set do not matter"


def test_what_is_over_images_per_class_is_counted_and_a_bad_file_takes_no_place(tmp_path: Path) -> None:
    root = pictures(tmp_path / "in", each=9)
    write(root, *(f"cat/bad{i}.png" for i in range(9)), content=b"bad")
    info = prepared(root, tmp_path / "out", images_per_class=4)
    assert info.counts == (4, 4)
    assert set(reasons(info.passed_over).values()) == {OVER_LIMIT}
    again = prepared(root, tmp_path / "again", images_per_class=4)
    assert labels(tmp_path / "out") == labels(tmp_path / "again"), f"{info} {again}"


def add(tar: tarfile.TarFile, name: str, content: bytes = PNG, **fields: object) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    for field, value in fields.items():
        setattr(entry, field, value)
    tar.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz", "TAR"])
def test_archives_with_links_and_sidecars(tmp_path: Path, suffix: str) -> None:
    kind = suffix.rpartition(".")[2] if "." in suffix else ""
    source = tmp_path / f"in.{suffix}"
    with tarfile.open(source, f"w:{kind}") as tar:  # type: ignore[call-overload]
        for c in ("cat", "dog"):
            for i in range(2):
                add(tar, f"{c}/{i}.png")
        add(tar, "cat/noext")
        add(tar, "cat/0.json", b"{}")
        add(tar, "cat/.hidden")
        add(tar, "dog/hard.png", b"", type=tarfile.LNKTYPE, linkname="dog/0.png")
        add(tar, "dog/soft.png", b"", type=tarfile.SYMTYPE, linkname="0.png")
        add(tar, "dog/pipe.png", b"", type=tarfile.FIFOTYPE)
    info = prepared(source, tmp_path / "out")
    assert (info.counts, info.num_listed) == ((3, 2), 10)
    assert {path: why.split(" to ")[0] for path, why in reasons(info.rejected).items()} == {
        "dog/hard.png": "it is a hard link",
        "dog/soft.png": "it is a link",
        "dog/pipe.png": "it is not a regular file",
    }
    assert reasons(info.passed_over) == {"cat/0.json": TEXT, "cat/.hidden": HIDDEN}


def webdataset(path: Path, members: dict[str, str | None]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, label in members.items():
            add(tar, name, PNG if label is None else label.encode())
    return path


def test_each_image_has_the_label_of_its_own_cls_though_keys_hold_dots(tmp_path: Path) -> None:
    members: dict[str, str | None] = {}
    for i, label in enumerate(["cat", "dog", "cat", "dog"]):
        members |= {f"cam.2026-11.{i}.cls": label, f"cam.2026-11.{i}.png": None}
    members |= {"x.left.png": None, "x.right.png": None, "x.cls": "dog"}  # shared, as in WebDataset
    info = prepared(webdataset(tmp_path / "a.tar", members), tmp_path / "out")
    expected = {f"cam.2026-11.{i}.png": label for i, label in enumerate(["cat", "dog", "cat", "dog"])}
    assert labels(tmp_path / "out") == {**expected, "x.left.png": "dog", "x.right.png": "dog"}
    assert Counter(reasons(info.passed_over).values()) == {LABEL: 5}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"s/1.png": None, "s/1.cls": "a", "s/2.png": None}, r"s/1\.png would take .*a \.cls file, s/2\.png"),
        ({"s/a.b.cls": "a", "s/a.png": None, "s/b.cls": "b", "s/b.png": None}, r"s/a\.png would take .*a folder"),
        ({"1.cls": "", "1.png": None}, r"1\.cls is empty"),
        ({"1.png": None, "1.txt": "cat", "2.png": None}, r"has no labels \(it holds 1\.png, without folders or \.cls"),
    ],
)  # fmt: skip
def test_labels_of_archives_that_could_be_read_in_two_ways(
    tmp_path: Path, members: dict[str, str | None], message: str
) -> None:
    source = webdataset(tmp_path / "a.tar", members)
    with pytest.raises(MofeError, match=message):
        prepared(source, tmp_path / "out")


def table(path: Path, labels: object, names: list[str] | None = None) -> Path:
    images = [{"bytes": PNG, "path": f"{path.stem}-{i}.png"} for i in range(4)]
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    features = {"label": {"_type": "ClassLabel", "names": names}} if names else {}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def test_each_parquet_file_is_read_by_its_own_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table(tmp_path / "d" / "a.parquet", [0, 1, 0, 1], ["cat", "dog"])
    table(tmp_path / "d" / "b.parquet", [0, 1, 2, 1], ["dog", "cat", "eel"])
    table(tmp_path / "d" / "c.parquet", [2, 2, 2, 2], ["dog", "cat", "eel"])
    write(tmp_path / "d", "README.md", content=b"text")
    info = prepared(tmp_path / "d", tmp_path / "out")
    assert info.classes == ("cat", "dog", "eel")
    found = " ".join(labels(tmp_path / "out").values())
    assert found == "cat dog cat dog dog cat eel cat eel eel eel eel"
    assert info.num_passed_over == 1
    assert any("a.parquet and b.parquet number their classes differently" in note for note in info.notes)
    assert info.notes[0] in capsys.readouterr().out


def test_parquet_files_of_which_some_have_names_or_labels(tmp_path: Path) -> None:
    table(tmp_path / "d" / "a.parquet", [0, 1, 0, 1], ["cat", "dog"])
    for other, what in ((None, "a column label"), ([0, 1, 0, 1], "names of classes")):
        table(tmp_path / "d" / "b.parquet", other)
        with pytest.raises(MofeError, match=rf"a\.parquet has {what}, .*b\.parquet has none"):
            prepared(tmp_path / "d", tmp_path / "out")
        assert prepared(tmp_path / "d", tmp_path / "ood", "ood").num_images == 8


@pytest.mark.parametrize("given", [[-1] * 4, ["a", "b"] * 2, pa.array([None] * 4, pa.int64()), [0, 7, -1, None]])
@pytest.mark.parametrize("names", [None, ["cat", "dog"]])
def test_no_label_of_an_ood_set_makes_it_fail(tmp_path: Path, given: object, names: list[str] | None) -> None:
    info = prepared(table(tmp_path / "a.parquet", given, names), tmp_path / "out", "ood")
    assert (info.num_images, info.num_rejected) == (4, 0)


def test_no_depth_name_or_mixture_of_an_ood_set_makes_it_fail(tmp_path: Path) -> None:
    write(tmp_path / "a", "1.png", "cat/2.png", "Cat/deep/3.png", " /4.png")
    assert prepared(tmp_path / "a", tmp_path / "out-a", "ood").num_images == 4
    mixed = webdataset(tmp_path / "b.tar", {"1.png": None, "c/2.png": None, "3.png": None, "3.cls": "x"})
    assert prepared(mixed, tmp_path / "out-b", "ood").num_images == 3
    (tmp_path / "c.csv").write_text("path,label\na/1.png,x\na/cat/2.png,\n")
    assert prepared(tmp_path / "c.csv", tmp_path / "out-c", "ood").num_images == 2
    assert prepared(f"{tmp_path}/a/*.png", tmp_path / "out-d", "ood").num_images == 1


def test_names_in_two_unicode_forms_are_one_class_and_it_is_told(tmp_path: Path) -> None:
    nfc, nfd = "caf\u00e9", "cafe\u0301"
    info = prepared(pictures(tmp_path / "in", f"{nfc} {nfd} tea"), tmp_path / "out")
    assert (info.classes, info.counts) == ((nfc, "tea"), (6, 3))
    assert "2 Unicode forms" in info.notes[0]
    manifest = "".join(f"in/{name}/{i}.png,{name}\n" for name in (nfc, nfd, "tea") for i in range(3))
    (tmp_path / "set.csv").write_text("path,label\n" + manifest)
    assert prepared(tmp_path / "set.csv", tmp_path / "csv").counts == (6, 3)
    (tmp_path / "synsets.csv").write_text(f"class,synset\n{nfd},cafe.n.01\n{nfc},cat.n.01\n")
    with pytest.raises(MofeError, match=r"line 3 names the class 'café' twice, as 'cafe\.n\.01' and as 'cat\.n\.01'"):
        prepared(tmp_path / "set.csv", tmp_path / "csv")


@pytest.mark.parametrize("store", ["tar", "zip"])
def test_file_systems_that_threads_must_not_share(tmp_path: Path, store: str) -> None:
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(60)]
    contents = {name: striped(0, np.random.default_rng(i), size=16 + i % 40) for i, name in enumerate(names)}
    source = tmp_path / f"a.{store}"
    if store == "tar":
        with tarfile.open(source, "w") as tar:
            for name in names:
                add(tar, name, contents[name])
    else:
        with zipfile.ZipFile(source, "w") as archive:
            for name in names:
                archive.writestr(name, contents[name])
    for attempt in range(3):
        info = prepared(f"{store}://::file://{source}", tmp_path / f"out{attempt}")
        assert (info.counts, info.num_rejected) == ((60, 60), 0)
    shards = ImageShards(str(tmp_path / "out0"))
    assert all(contents[path] == content for content, path, _ in (shards.image(i) for i in range(120)))


def test_objects_that_stand_for_folders(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    for c in ("cat", "d+o%20g #1"):
        for i in range(2):
            memory.pipe(f"/marked/{c}/{i}.png", PNG)
    memory.store["/marked/fish/"] = memory.store["/marked/cat/0.png"].__class__(memory, "/marked/fish/", b"")
    with pytest.raises(MofeError, match="without any image: fish"):
        prepared("memory://marked", tmp_path / "out")
    del memory.store["/marked/fish/"]
    memory.store["/marked/cat/"] = memory.store["/marked/cat/0.png"].__class__(memory, "/marked/cat/", b"")
    info = prepared("memory://marked", tmp_path / "out")
    assert (info.classes, info.counts) == (("cat", "d+o%20g #1"), (2, 2))
    assert set(reasons(info.passed_over).values()) <= {MARKER}


def test_a_source_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = table(tmp_path / "a.parquet", [0, 1, 0, 1])
    from mofe.data import parquet

    real: Callable[..., object] = parquet._images
    monkeypatch.setattr(parquet, "_images", lambda *given: list(real(*given))[1:])  # type: ignore[call-overload]
    with pytest.raises(MofeError, match="changed while it was read: 4 entries were listed, 3 found"):
        prepared(source, tmp_path / "out")
