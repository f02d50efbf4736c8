"""A digest that changes with the data, and only then."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from mofe.data.classes import untaught
from mofe.errors import MofeError
from mofe.stages.fingerprint import fingerprint


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("train/a/1.png", "test/a/1.png", "ood/1.png", "w.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    save_file({"w": np.zeros(1)}, tmp_path / "w.safetensors")
    return tmp_path


def digests(data: Path, train: str = "train", ood: str = "ood", weights: str = "") -> tuple[str, ...]:
    found = fingerprint(str(data / train), str(data / "test"), [{"dataset": "x", "uri": str(data / ood)}], weights)
    return found.train, found.test, found.ood_data[0]["digest"], found.weights


def test_it_changes_with_what_changed_and_nothing_else(data: Path) -> None:
    before = digests(data)
    assert digests(data) == before
    (data / "train/a/2.png").write_bytes(b"new")
    added = digests(data)
    assert added[0] != before[0]
    assert added[1:] == before[1:]
    (data / "train/a/2.png").unlink()
    assert digests(data) == before
    content = (data / "ood/1.png").read_bytes()
    (data / "ood/1.png").write_bytes(content[::-1])  # same size
    os.utime(data / "ood/1.png", ns=(1, 1))
    rewritten = digests(data)
    assert rewritten[2] != before[2]
    assert rewritten[:2] == before[:2]
    (data / "train/a/1.png").rename(data / "train/a/9.png")
    assert digests(data)[0] != before[0]


def test_a_test_set_of_other_classes_is_refused_at_once(data: Path) -> None:
    (data / "test/b c").mkdir()
    (data / "test/.hidden").mkdir()
    (data / "test/.hidden/1.png").write_bytes(b"")
    with pytest.raises(MofeError, match="class folders without any image: b c"):
        digests(data)
    (data / "test/b c/1.jpg").write_bytes(b"")
    with pytest.raises(MofeError, match=r"test has classes that .*train does not have, among them b c: name"):
        digests(data)
    (data / "train/b c").mkdir()
    (data / "train/b c/9.jpg").write_bytes(b"")
    digests(data)


def parquet(file: Path, *names: str) -> str:
    features = datasets_features(names)
    table = pa.table({"image": [b"x"], "label": [0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), file)
    return str(file)


def datasets_features(names: tuple[str, ...]) -> dict[str, object]:
    return {"info": {"features": {"label": {"names": list(names), "_type": "ClassLabel"}}}}


def csv(file: Path, *labels: str) -> str:
    file.write_text("path,label\n" + "".join(f"x.png,{label}\n" for label in labels))
    return str(file)


def test_whatever_form_it_has(tmp_path: Path) -> None:
    for name in ("folders/a/1.png", "folders/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    same = [f"{tmp_path}/folders", parquet(tmp_path / "p.parquet", "b", "a"), csv(tmp_path / "c.csv", "a", "b", "a")]
    others = [parquet(tmp_path / "q.parquet", "a", "c", "b"), csv(tmp_path / "d.csv", "b", "c")]
    for known in same:
        for test in same:
            assert untaught(test, known) == []
        for test in others:
            assert untaught(test, known) == ["c"]
    silent = csv(tmp_path / "e.csv", "")
    assert untaught(silent, same[0]) == untaught(others[0], silent) == []
    assert untaught(parquet(tmp_path / "n.parquet"), same[0]) == ["0"], "as prepare would call it"
    assert untaught(csv(tmp_path / "m.csv", *map(str, range(10))), same[0]) == ["0", "1", "2", "3", "4"]


def test_a_file_behind_a_link_counts(data: Path) -> None:
    (data / "train/a/link.png").symlink_to(data / "w.safetensors")
    before = digests(data)
    (data / "w.safetensors").write_bytes((data / "w.safetensors").read_bytes()[::-1])  # same size
    os.utime(data / "w.safetensors", ns=(1, 1))
    assert digests(data)[0] != before[0]


def test_weights_count_if_they_are_a_file(data: Path) -> None:
    assert digests(data, weights="")[3] == digests(data, weights="random")[3] == ""
    file = str(data / "w.safetensors")
    before = digests(data, weights=file)[3]
    save_file({"w": np.ones(2)}, data / "w.safetensors")
    assert before
    assert digests(data, weights=file)[3] != before


@pytest.mark.parametrize("parameter", ["weights", "text_weights", "text_embeddings"])
def test_a_file_that_holds_no_weights_ends_the_run_here(data: Path, parameter: str) -> None:
    (data / "w.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 9\n")
    sets = [{"dataset": "x", "uri": str(data / "ood")}]
    with pytest.raises(MofeError, match=r"w\.safetensors are a Git LFS pointer"):
        fingerprint(str(data / "train"), str(data / "test"), sets, **{parameter: str(data / "w.safetensors")})


def test_files_of_a_text_model_count(data: Path) -> None:
    def digest(**texts: str) -> str:
        sets = [{"dataset": "x", "uri": str(data / "ood")}]
        return fingerprint(str(data / "train"), str(data / "test"), sets, **texts).texts

    file = str(data / "w.safetensors")
    assert digest() == digest(text_model="ViT-B-16", text_weights="openai") == ""
    given = {"text_model": f"local-dir:{data}/train", "text_weights": file, "text_embeddings": file}
    before = {name: digest(**{name: value}) for name, value in given.items()}
    assert all(before.values())
    together = digest(**given)
    save_file({"w": np.ones(2)}, data / "w.safetensors")
    changed = {name for name, value in given.items() if digest(**{name: value}) != before[name]}
    assert changed == {"text_weights", "text_embeddings"}
    (data / "train/a/1.png").write_bytes(b"another model")
    assert digest(text_model=given["text_model"]) != before["text_model"]
    assert digest(**given) != together


def test_a_manifest_counts_with_the_images_it_lists(data: Path) -> None:
    (data / "set.csv").write_text("path\ntrain/a/1.png\nmissing.png\n")
    before = digests(data, train="set.csv")
    (data / "train/a/1.png").write_bytes(b"another image")
    assert digests(data, train="set.csv")[0] != before[0]


def test_a_glob_and_the_synsets_beside_the_data(data: Path) -> None:
    before = digests(data, ood="train/*/*.png"), digests(data)
    (data / "train/synsets.csv").write_text("class,synset\n")
    assert digests(data, ood="train/*/*.png")[2] == before[0][2]
    assert digests(data)[0] != before[1][0]


def test_a_list_of_synsets_that_is_named_counts_in_place_of_the_one_beside_the_data(data: Path) -> None:
    def digest(synsets: str = "") -> str:
        sets = [{"dataset": "x", "uri": str(data / "ood")}]
        return fingerprint(str(data / "train"), str(data / "test"), sets, synsets=synsets).train

    own = data / "own.csv"
    own.write_text("class,synset\na,cat.n.01\n")
    before = digest(str(own))
    assert before != digest()
    own.write_text("class,synset\na,cat.n.0002\n")
    assert digest(str(own)) != before
    with pytest.raises(MofeError, match=r"none\.csv"):
        digest(str(data / "none.csv"))


@pytest.mark.parametrize(
    ("ood", "message"),
    [
        ([], "ood_data is empty"),
        ([{"dataset": "a"}], "entry 1: expected dataset, uri and optionally kind, found dataset"),
        ([{"dataset": "a", "uri": "x", "kind": "close"}], "entry 1: kind = 'close' is not one of near, far"),
        ([{"dataset": "average", "uri": "x"}], "'average' cannot name a set"),
        ([{"dataset": "a b", "uri": "x"}], "'a b' cannot name a set"),
        ([{"dataset": "id-test", "uri": "x"}], "cannot name a set"),
        ([{"dataset": "a", "uri": "x"}, {"dataset": "a", "uri": "y"}], "has the name 'a' twice"),
    ],
)
def test_bad_lists_of_sets(ood: list[dict[str, str]], message: str) -> None:
    with pytest.raises(MofeError, match=message):
        fingerprint("x", "y", ood)


def test_nothing_at_a_uri(data: Path) -> None:
    with pytest.raises(MofeError, match="nowhere"):
        digests(data, train="nowhere")


def test_a_set_may_say_whether_it_is_near(data: Path) -> None:
    entry = {"dataset": "x", "uri": str(data / "ood")}
    for given, kind in ((entry, ""), ({**entry, "kind": "near"}, "near")):
        assert fingerprint(str(data / "train"), str(data / "test"), [given]).ood_data[0]["kind"] == kind
