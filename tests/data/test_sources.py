"""Every kind of source, and every way in which one can be wrong."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mofe.data.account import Account
from mofe.data.read_ahead import read_ahead
from mofe.data.sources import open_source
from mofe.errors import MofeError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def listed(uri: object, synsets: str = "", limit: int = 0) -> dict[str, tuple[int, bytes]]:
    account = Account(open_source(str(uri), synsets), limit)
    images = account.settle(read_ahead(account.wanted(), bytes, ahead=8))
    return {image.path: (image.label, content) for image, content in images}


def write_parquet(file: Path, labels: list[int | None] | None, names: list[str] | None, nulls: bool = False) -> Path:
    n = len(labels) if labels is not None else 3
    images = [{"bytes": None if nulls and i == 0 else b"%d" % i, "path": f"{i}.png"} for i in range(n)]
    table = {"image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if labels is not None:
        table["label"] = pa.array(labels, pa.int64())
    features = {"label": {"_type": "ClassLabel", "names": names}} if names else {}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pa.table(table).replace_schema_metadata(metadata), file, row_group_size=2)
    return file


def test_class_folders_at_any_depth_and_other_files_left_alone(tmp_path: Path) -> None:
    touch(tmp_path, "dog/a.JPG", "cat/x/b.png", "dog/notes.txt", "cat/c.webp")
    assert open_source(str(tmp_path)).classes == ("cat", "dog")
    assert listed(tmp_path) == {
        "dog/a.JPG": (1, b"dog/a.JPG"),
        "cat/x/b.png": (0, b"cat/x/b.png"),
        "cat/c.webp": (0, b"cat/c.webp"),
    }


def test_class_folders_are_shuffled_and_always_alike(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{c}/{i}.png" for c in "ab" for i in range(50)))
    order = list(listed(tmp_path))
    assert order == list(listed(tmp_path))
    assert 15 < sum(name.startswith("a") for name in order[:50]) < 35


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png")
    assert {label for label, _ in listed(tmp_path).values()} == {-1}
    touch(tmp_path, "dog/c.png")
    with pytest.raises(MofeError, match=r"both images \(a\.png\) and folders"):
        open_source(str(tmp_path))


def test_links_to_folders_are_not_followed_and_not_lost(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "d.png")
    classes, flat = touch(tmp_path / "classes", "cat/a.png"), touch(tmp_path / "flat", "a.png")
    for place in (classes / "cat/more", flat / "more"):
        place.symlink_to(tmp_path / "elsewhere")
        images = {image.path: image for image in open_source(str(place.parents[place.parent.name == "cat"])).images()}
        assert len(images) == 2
        with pytest.raises(ValueError, match="leads out of the folder"):
            next(image for path, image in images.items() if path.endswith("more")).read()
    (classes / "dog").symlink_to(classes / "cat")
    with pytest.raises(MofeError, match=r"classes/dog is a link to a folder.*not followed"):
        open_source(str(classes))


def test_an_object_store_and_a_tar_inside_one(tmp_path: Path) -> None:
    import tarfile

    touch(tmp_path, "dog/a.png", "cat/b.png")
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/dog/a.png", b"dog/a.png")
    memory.pipe("/bucket/cat/b.png", b"cat/b.png")
    assert listed("memory://bucket") == {"dog/a.png": (1, b"dog/a.png"), "cat/b.png": (0, b"cat/b.png")}
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(tmp_path / "dog", "dog")
        tar.add(tmp_path / "cat", "cat")
    assert listed(f"tar://::file://{tmp_path}/images.tar") == listed("memory://bucket")


def test_parquet_by_file_folder_and_glob(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", [0, 1, 1], ["n02099601", "cat"])
    expected = {"0.png": (0, b"0"), "1.png": (1, b"1"), "2.png": (1, b"2")}
    for uri in (tmp_path / "1.parquet", tmp_path, f"{tmp_path}/*.parquet"):
        assert listed(uri) == expected
        source = open_source(str(uri))
        assert (source.classes, source.synsets, source.total) == (("n02099601", "cat"), ("n02099601", None), 3)


def test_parquet_without_names_without_labels_and_with_plain_bytes(tmp_path: Path) -> None:
    assert open_source(str(write_parquet(tmp_path / "a.parquet", [0, 2], None))).classes == ("0", "1", "2")
    assert listed(write_parquet(tmp_path / "b.parquet", None, None))["1.png"] == (-1, b"1")
    pq.write_table(pa.table({"image": [b"x", b"y"], "label": [1, 0]}), tmp_path / "c.parquet")
    assert listed(tmp_path / "c.parquet") == {"c.parquet#0": (1, b"x"), "c.parquet#1": (0, b"y")}


def test_a_parquet_row_without_bytes_is_an_unreadable_image(tmp_path: Path) -> None:
    first = next(open_source(str(write_parquet(tmp_path / "a.parquet", [0, 1], ["a", "b"], nulls=True))).images())
    with pytest.raises(ValueError, match="no image bytes"):
        first.read()


def test_a_path_in_a_parquet_that_is_not_utf8_is_escaped_and_its_image_kept(tmp_path: Path) -> None:
    latin = pa.StringArray.from_buffers(1, pa.py_buffer(bytes([0, 0, 0, 0, 5, 0, 0, 0])), pa.py_buffer(b"\xe9.png"))
    images = pa.StructArray.from_arrays([pa.array([b"content"]), latin], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "label": [0]}), tmp_path / "a.parquet")
    assert listed(tmp_path / "a.parquet") == {r"\xe9.png": (0, b"content")}


@pytest.mark.parametrize("label", [-1, 2, None])
def test_labels_out_of_range_name_file_row_and_value(tmp_path: Path, label: int | None) -> None:
    file = write_parquet(tmp_path / "a.parquet", [0, 1, 0, label], ["a", "b"])
    with pytest.raises(MofeError, match=rf"a\.parquet, row 3: label {label} is not one of 0 to 1"):
        listed(file)


def test_labels_that_would_be_a_class_for_each_grain_of_sand(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"a", b"b"], "label": [0, 2**62]}), tmp_path / "a.parquet")
    with pytest.raises(MofeError, match=r"has the label 4611686018427387904, and no names"):
        open_source(str(tmp_path / "a.parquet"))


def test_a_damaged_parquet_is_an_error_wherever_it_is_found_out(tmp_path: Path) -> None:
    """Found by scripts/fuzz.py: Arrow raises errors of many classes, some of them only as pages are read."""
    file, rng = tmp_path / "a.parquet", np.random.default_rng(0)
    rows = [{"bytes": b"content", "path": f"{i}.png"} for i in range(20)]
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(20)]}), file, compression="none")
    whole = file.read_bytes()
    refused = 0
    for _ in range(400):
        spoiled = bytearray(whole)
        for at in rng.integers(len(whole), size=2):
            spoiled[at] = rng.integers(256)
        file.write_bytes(spoiled)
        try:
            for image in open_source(str(file)).images():
                with suppress(ValueError):
                    image.read()
        except MofeError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 20


BOMB = """
import sys
import pyarrow as pa
import pyarrow.parquet as pq
from mofe.data import memory_limit
from mofe.data.sources import open_source
from mofe.errors import MofeError

memory_limit.MOST = 1 << 30
one = pa.DictionaryArray.from_arrays(pa.array([0] * 256, pa.int32()), pa.array([bytes(8 << 20)]))
table = pa.table({"image": one, "label": [0] * 256})
pq.write_table(table, sys.argv[1], compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
try:
    for _ in open_source(sys.argv[1]).images():
        pass
except MofeError as error:
    print(error)
"""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="no bound on the memory of a process")
def test_a_parquet_that_unpacks_to_more_than_there_may_be(tmp_path: Path) -> None:
    """In a process of its own, whose memory the bound is taken from: 2 GB of one value, in a file of 3 kB."""
    file = tmp_path / "a.parquet"
    done = subprocess.run([sys.executable, "-c", BOMB, str(file)], capture_output=True, text=True)
    assert file.stat().st_size < 3_000
    assert f"{file} unpacks to more than 1 GB at once" in done.stdout, done.stderr


def test_a_strange_parquet_says_what_was_found(tmp_path: Path) -> None:
    pq.write_table(pa.table({"picture": ["x"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(MofeError, match=r"expected a column image.*found picture: string, label: int64"):
        open_source(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"nonsense")
    with pytest.raises(MofeError, match="not a readable Parquet file"):
        open_source(str(tmp_path))


def test_csv_manifest_with_relative_and_absolute_paths(tmp_path: Path) -> None:
    touch(tmp_path, "far/a.png", "b.png")
    fsspec.filesystem("memory").pipe("/m/c.png", b"c")
    (tmp_path / "set.csv").write_text(f"path,label\nfar/a.png,dog\n{tmp_path}/b.png,cat\nmemory://m/c.png,cat\n")
    assert listed(tmp_path / "set.csv") == {
        "far/a.png": (1, b"far/a.png"),
        f"{tmp_path}/b.png": (0, b"b.png"),
        "memory://m/c.png": (0, b"c"),
    }


def test_csv_manifest_without_labels_and_with_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "set.csv").write_text("path\nnone.png\n")
    (image,) = open_source(str(tmp_path / "set.csv")).images()
    assert image.label == -1
    with pytest.raises(FileNotFoundError):
        image.read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na,b\n", "expected the columns path in a CSV manifest, found file,label"),
        ("path,label\n", "lists no images"),
        ("path,label\na.png,x\nb.png,\n", "line 3 has no label"),
        ("label,path\nx,a.png\nx\n", "line 3 has no path"),
        ("path,label\ncaf\xe9.png,x\n", "is not a CSV file in UTF-8"),
        ("path\n" + "a" * 200_000, "is not a CSV file in UTF-8: field larger"),
    ],
)
def test_bad_manifests(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "set.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(MofeError, match=message):
        open_source(str(tmp_path / "set.csv"))


def test_class_names_that_differ_by_case_only(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "Cat/b.png")
    with pytest.raises(MofeError, match="'cat' twice"):
        open_source(str(tmp_path))
    with pytest.raises(MofeError, match="'a' twice"):
        open_source(str(write_parquet(tmp_path / "x.parquet", [0, 1], ["a", "a"])))


def test_nothing_there(tmp_path: Path) -> None:
    for uri in (tmp_path / "no", tmp_path / "no.parquet", tmp_path / "no.csv", f"{tmp_path}/*.parquet", tmp_path):
        with pytest.raises(MofeError, match=r"no(thing)? "):
            open_source(str(uri))


def test_limits_take_the_first_of_each_class_and_read_no_more(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", [0, 0, 0, 1, 1], ["a", "b"])
    assert list(listed(file, limit=2)) == ["0.png", "1.png", "3.png", "4.png"]
    touch(tmp_path / "flat", *(f"{i}.png" for i in range(9)))
    assert len(listed(tmp_path / "flat", limit=4)) == 4


def test_synsets_beside_the_data_or_given(tmp_path: Path) -> None:
    touch(tmp_path / "d", "dog/a.png", "n02099601/b.png")
    assert open_source(str(tmp_path / "d")).synsets == (None, "n02099601")
    (tmp_path / "d" / "synsets.csv").write_text("class,synset\ndog,dog.n.01\n")
    assert open_source(str(tmp_path / "d")).synsets == ("dog.n.01", "n02099601")
    (tmp_path / "own.csv").write_text("class,synset\nn02099601,wolf.n.01\n")
    assert open_source(str(tmp_path / "d"), str(tmp_path / "own.csv")).synsets == (None, "wolf.n.01")
    (tmp_path / "own.csv").write_text("class,synset\nwhale,whale.n.02\n")
    with pytest.raises(MofeError, match="'whale', which the data does not have"):
        open_source(str(tmp_path / "d"), str(tmp_path / "own.csv"))


def test_images_are_not_read_before_they_are_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png", "b/2.png")
    images = list(open_source(str(tmp_path)).images())
    (tmp_path / "a/1.png").write_bytes(b"later")
    assert {image.read() for image in images} == {b"later", b"b/2.png"}
