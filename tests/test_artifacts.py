"""What stages hand on: one changed byte anywhere is an error that names the file, and so is what does not belong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
import torch
from helpers import TINY, make_partition, train_small, write_images

from mofe import load_detector
from mofe.artifacts.features import Features
from mofe.artifacts.image_shards import ImageShards
from mofe.artifacts.metrics import Metrics
from mofe.artifacts.model import History, ModelConfig
from mofe.artifacts.partition import Partition
from mofe.artifacts.scores import ScoreTable
from mofe.artifacts.texts import TextInfo
from mofe.detection.texts import Texts, read_texts, write_texts
from mofe.errors import MofeError
from mofe.models.checkpoint import load_model
from mofe.stages.compare_runs import compare_runs
from mofe.stages.evaluate import evaluate
from mofe.stages.extract import extract
from mofe.stages.finetune import finetune
from mofe.stages.index import index
from mofe.stages.list_files import list_files
from mofe.stages.merge_features import merge_features
from mofe.stages.merge_predictions import merge_predictions
from mofe.stages.merge_scores import merge_scores
from mofe.stages.partition import partition
from mofe.stages.predict import predict
from mofe.stages.score import score
from mofe.storage import locations, writing

FLIPS = 4
"""In each file, beside its first byte and its last."""


@pytest.fixture(scope="session")
def whole_run(_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every artifact that a pipeline makes, once."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(_detector, folder, dirs_exist_ok=True)
    for name, role in (("id-test", "test"), ("odd", "ood")):
        write_images(folder, name, role, per_class=3)  # type: ignore[arg-type]
        score(str(folder / name), str(folder / "run/detector"), str(folder / f"scores-{name}"), num_workers=0)
    ask_evaluate(folder)
    only = {"num_workers": 0, "shards": 2}  # which are one shard, since they are one batch
    tiny = {"backbone": "vit_tiny_patch16_224", "backbone_args": TINY, "weights": "random"}
    extract(str(folder / "train"), str(folder / "part-of-features"), **tiny, **only)  # type: ignore[arg-type]
    score(str(folder / "odd"), str(folder / "run/detector"), str(folder / "part-of-scores"), **only)  # type: ignore[arg-type]
    known, given = Features(folder / "features").info, {"names": (), "negatives": (), "parameters": {"text_model": "x"}}
    info = TextInfo(digest="", backbone=known.backbone, classes=known.classes, **given)  # type: ignore[arg-type]
    with writing.staged(folder / "texts") as place:
        write_texts(place, info, Texts(torch.randn(24, 8), 100.0, torch.randn(4, 8)))
    (folder / "new").mkdir()
    (folder / "new" / "a.png").write_bytes(ImageShards(folder / "odd").image(0)[0])
    list_files([str(folder / "new")], str(folder / "files"), shards=1)
    predict(str(folder / "files"), str(folder / "run/detector"), str(folder / "predictions"), shard=0)
    return folder


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    """A copy that may be spoiled."""
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def ask_evaluate(folder: Path) -> None:
    scores = [str(folder / f"scores-{name}") for name in ("id-test", "odd")]
    outputs = {name: str(folder / "report" / name) for name in ("metrics", "roc", "report")}
    evaluate(scores, str(folder / "partition"), str(folder / "run/history"), **outputs)


def read_features(folder: Path) -> None:
    features = Features(folder)
    assert len(features.column("trunk")) and len(features.prototypes_CD)


def read_detector(folder: Path) -> None:
    detector = load_detector(str(folder))
    assert len(detector.bank) and len(detector.calibration) and detector.baselines


def read_scores(folder: Path) -> None:
    table = ScoreTable(folder)
    assert len(table.table) and len(table.gallery) and len(table.embeddings)


def read_texts_of(folder: Path) -> None:
    assert read_texts(folder)[1]


READERS: dict[str, Callable[[Path], object]] = {
    "train": ImageShards,
    "features": read_features,
    "partition": Partition.read,
    "texts": read_texts_of,
    "run/model": load_model,
    "run/history": History.read,
    "run/detector": read_detector,
    "scores-odd": read_scores,
    "part-of-features": lambda folder: merge_features([str(folder)], str(folder / "../stacked")),
    "part-of-scores": lambda folder: merge_scores([str(folder)], str(folder / "../merged")),
    "report/metrics": Metrics.read_file,
    "files": lambda folder: predict(str(folder), str(folder / "../run/detector"), str(folder / "../v"), shard=0),
    "predictions": lambda folder: merge_predictions([str(folder)], str(folder / "../all"), str(folder / "../counts")),
}
"""What a stage does with an artifact before it works with it."""


def files_of(artifact: Path) -> list[Path]:
    return [artifact] if artifact.is_file() else sorted(f for f in artifact.rglob("*") if f.is_file())


@pytest.mark.parametrize("artifact", READERS)
def test_one_byte_of_any_file(run: Path, artifact: str) -> None:
    rng = np.random.default_rng(sum(artifact.encode()))
    read, place = READERS[artifact], run / artifact
    read(place)
    for file in files_of(place):
        good = file.read_bytes()
        assert good, f"{file} is empty"
        for at in [0, len(good) - 1, *rng.integers(len(good), size=FLIPS).tolist()]:
            spoiled = bytearray(good)
            spoiled[at] ^= int(rng.integers(1, 256))
            file.write_bytes(spoiled)
            with pytest.raises(MofeError) as refused:
                read(place)
            assert file.name in str(refused.value), f"byte {at} of {file}"
            assert "\n" not in str(refused.value)
        file.unlink()
        with pytest.raises(MofeError, match=file.name):
            read(place)
        file.write_bytes(good)
    read(place)


Stage = Callable[[Path], object]
STAGES: dict[str, tuple[str, Stage]] = {
    "extract": ("train/images-00001.parquet", lambda r: extract(str(r / "train"), str(r / "out"), weights="random")),
    "partition": ("features/prototypes.parquet", lambda r: partition(str(r / "features"), str(r / "out"))),
    "finetune": ("features/features.parquet", lambda r: train_again(r)),
    "index": ("run/model/model.safetensors", lambda r: build_index(r, r / "run/model")),
    "score": ("run/detector/indexes/expert-001.faiss", lambda r: ask_score(r)),
    "evaluate": ("scores-id-test/scores.parquet", lambda r: ask_evaluate(r)),
    "compare_runs": (
        "report/metrics",
        lambda r: compare_runs([str(r / "report/metrics")], [], [], [], results=str(r / "out"), report=str(r / "page")),
    ),
}


def train_again(r: Path, images: str = "train", features: str = "features", partition: str = "partition") -> None:
    inputs = [str(r / name) for name in (images, features, partition)]
    finetune(*inputs, str(r / "out"), str(r / "out-history"), epochs=0, probe_epochs=1, num_workers=0)


def build_index(r: Path, model: Path, features: str = "features") -> None:
    index(str(r / "train"), str(r / features), str(model), str(r / "out"), num_workers=0)


def ask_score(r: Path) -> None:
    score(str(r / "odd"), str(r / "run/detector"), str(r / "out"), num_workers=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_refuses_and_leaves_nothing(run: Path, stage: str) -> None:
    name, work = STAGES[stage]
    spoiled = bytearray((run / name).read_bytes())
    spoiled[len(spoiled) // 2] ^= 1
    (run / name).write_bytes(spoiled)
    with pytest.raises(MofeError, match=Path(name).name):
        work(run)
    assert not (run / "out").exists()


def test_every_file_is_listed(run: Path) -> None:
    """So that a file which the manifest does not vouch for is noticed here, and not by whoever corrupts it."""
    for artifact in READERS:
        if (place := run / artifact).is_dir():
            (manifest,) = place.glob("*.json")
            listed = set(json.loads(manifest.read_text())["files"])
            assert listed == {str(f.relative_to(place)) for f in files_of(place)} - {manifest.name}


def test_an_index_of_another_model_is_refused(run: Path) -> None:
    train_small(run, "other", seed=3)
    other = SimpleNamespace(model=run / "other/model", detector=run / "other/detector")
    index(str(run / "train"), str(run / "features"), str(other.model), str(other.detector), num_workers=0)
    for part in ("indexes", "model"):
        mixed = run / f"mixed-{part}"
        shutil.copytree(run / "run/detector", mixed)
        shutil.rmtree(mixed / part)
        shutil.copytree(other.detector / part, mixed / part)
        with pytest.raises(MofeError, match=rf"{mixed}/{part}/.* belongs to another detector"):
            load_detector(str(mixed))


def test_inputs_that_do_not_belong_together_are_refused(run: Path) -> None:
    extract(
        str(run / "id-test"), str(run / "other-features"), backbone="vit_tiny_patch16_224", weights="random",
        backbone_args={"img_size": 16, "patch_size": 8, "depth": 3, "embed_dim": 24, "num_heads": 2}, num_workers=0,
    )  # fmt: skip
    with pytest.raises(MofeError, match="other-features were not extracted from the images"):
        train_again(run, features="other-features")
    with pytest.raises(MofeError, match=r"the texts .* were made from different features"):
        index(*(str(run / name) for name in ("train", "features", "run/model", "out")), texts=str(run / "texts"))
    with pytest.raises(MofeError, match="was not trained with the features"):
        build_index(run, run / "run/model", features="other-features")
    partition(str(run / "other-features"), str(run / "other-partition"), num_experts=2, strategy="kmeans++")
    with pytest.raises(MofeError, match="other-partition was not made from the features"):
        train_again(run, partition="other-partition")
    shutil.copytree(run / "other-partition", run / "partition", dirs_exist_ok=True)
    with pytest.raises(MofeError, match=r"scores-id-test and the partition .* belong to different models"):
        ask_evaluate(run)


def test_scores_of_two_detectors_are_not_compared(run: Path) -> None:
    build_index(run, run / "run/model")
    shutil.rmtree(run / "run/detector")
    (run / "out").rename(run / "run/detector")
    ask_score(run)
    shutil.rmtree(run / "scores-odd")
    (run / "out").rename(run / "scores-odd")
    with pytest.raises(MofeError, match="odd and id-test were scored by different detectors"):
        ask_evaluate(run)


@pytest.mark.parametrize("where", ["store", "here, not hashed"])
def test_of_shards_that_are_not_hashed_each_page_is_checked_as_it_is_read(run: Path, where: str) -> None:
    file = run / "train/images-00000.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # in the pixels
    file.write_bytes(content)
    store = fsspec.filesystem("memory")
    store.put(str(run / "train"), "/checked", recursive=True)
    shards = ImageShards("memory://checked") if where == "store" else ImageShards(run / "train", hashed=False)
    with pytest.raises(MofeError, match=r"images-00000\.parquet.*CRC"):
        for position in range(len(shards)):
            shards.image(position)
    store.rm("/checked", recursive=True)


def test_a_manifest_of_an_earlier_version_says_so(tmp_path: Path) -> None:
    values = make_partition([0, 1]).model_dump(mode="json") | {"schema_version": 1}
    (tmp_path / "partition.json").write_text(json.dumps(values))
    with pytest.raises(
        MofeError, match=r"partition\.json .*another version.*schema_version 1.*make the partition again"
    ):
        Partition.read(tmp_path)
    (tmp_path / "partition.json").write_text("[" * 100_000)
    with pytest.raises(MofeError, match="nested too deeply"):
        Partition.read(tmp_path)


def test_what_is_written_is_hashed_on_its_way(tmp_path: Path) -> None:
    with writing.staged(tmp_path / "a") as folder:
        writing.write_bytes(folder / "one", b"1")
        with writing.file(folder / "below" / "two") as file:
            file.write(b"2" * 3)
            file.write(b"2" * 4)
        assert set(writing.written(folder)) == {"one", "below/two"}
        assert writing.written(folder / "below") == {"two": locations.sha256(folder / "below" / "two")}
    assert writing.written(folder) == {}


def test_a_model_is_the_same_file_by_itself_and_in_its_detector(run: Path) -> None:
    assert ModelConfig.read(run / "run/model").identity == ModelConfig.read(run / "run/detector/model").identity
