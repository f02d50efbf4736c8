"""The real graph with stages that take no time, to watch what runs and what is cached."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mofe.runners.digests import compiled_pipeline
from mofe.runners.local import RunResult, earlier_run, run_again, run_pipeline

STAND_INS = {
    "fingerprint": """
        from pathlib import Path
        from typing import NamedTuple
        class Fingerprints(NamedTuple):
            train: str
            test: str
            weights: str
            texts: str
            ood_data: list
        def fingerprint(
            train_data, test_data, ood_data, weights, *, text_model, text_weights, text_embeddings, synsets
        ):
            read = lambda uri: Path(uri).read_text() if uri else ""
            sets = [{**item, "digest": read(item["uri"])} for item in ood_data]
            train = read(train_data) + read(synsets)
            return Fingerprints(train, read(test_data), weights, read(text_embeddings), sets)
    """,
    "prepare": """
        from pathlib import Path
        import json
        def prepare(source, images, *, name, digest, **more):
            if digest == "broken":
                class MofeError(Exception): pass
                raise MofeError(f"{source} is broken")
            Path(images).mkdir(parents=True)
            (Path(images) / "dataset.json").write_text(json.dumps({"name": name, "digest": digest}))
    """,
    "check_classes": """
        def check_classes(train, test, *, num_experts, strategy, runs):
            return len(runs) or 1
    """,
    "plan_runs": """
        def plan_runs(tables, configurations, seeds, base):
            changes = [(c["name"], {k: v for k, v in c.items() if k != "name"}) for c in configurations]
            return [{"name": n, "seed": s, "parameters": {**base, **c}} for s in seeds for n, c in changes]
    """,
    "unpack_run": """
        from typing import NamedTuple
        def unpack_run(run):
            whole = ("num_experts", "top_k", "epochs", "knn_k")  # they come as floats
            made = {k: int(v) if k in whole else v for k, v in run["parameters"].items()}
            Made = NamedTuple("Made", [("name", str), ("seed", int), *((k, type(v)) for k, v in made.items())])
            return Made(run["name"], int(run["seed"]), **made)
    """,
    "compare_runs": """
        import json
        from pathlib import Path
        def compare_runs(metrics, runs, tables, configurations, *, results, report):
            for path in (results, report):
                Path(path).write_text(json.dumps([json.loads(Path(m).read_text()) for m in metrics]))
    """,
    "fingerprint_batch": """
        from pathlib import Path
        def fingerprint_batch(images, detector):
            return " ".join(Path(place).read_text() for place in [*images, detector])
    """,
    "list_files": """
        from pathlib import Path
        def list_files(images, files, *, digest, shards):
            Path(files).write_text(digest)
            return list(range(shards))
    """,
    "predict": """
        from pathlib import Path
        import json
        def predict(files, detector, predictions, *, shard, **more):
            if shard == 1 and Path("broken").exists():
                class MofeError(Exception): pass
                raise MofeError("shard 1 is broken")
            seen = {"shard": shard, "digest": Path(files).read_text(), "detector": detector, **more}
            Path(predictions).write_text(json.dumps(seen))
    """,
    "merge_predictions": """
        from pathlib import Path
        import json
        def merge_predictions(shards, predictions, counts):
            read = [json.loads(Path(shard).read_text()) for shard in shards]
            for path in (predictions, counts):
                Path(path).write_text(json.dumps(read))
            return {"known": len(read)}
    """,
    "evaluate": """
        from pathlib import Path
        from types import SimpleNamespace
        import json
        def evaluate(scores, partition, history, *, metrics, roc, report, name, ood_data):
            assert [item["dataset"] for item in ood_data] == ["near", "far"]
            read = sorted(Path(s).read_text() for s in scores)
            seen = {"name": name, "model": Path(history).read_text(), "scores": read}
            for path in (metrics, roc, report):
                Path(path).write_text(json.dumps(seen if name else seen["scores"]))
            numbers = SimpleNamespace(tolist=lambda: [0.0, 1.0])
            return {"figure": 1.0}, SimpleNamespace(fpr=numbers, tpr=numbers, thresholds=numbers)
    """,
    "plan_shards": """
        def plan_shards(images, *, shards, batch_size):
            return list(range(int(shards)))
    """,
    "extract": """
        from pathlib import Path
        def extract(images, features, *, shard, shards, **more):
            seen = str(more | {"weights": more["weights_digest"]})
            if shards == 1:
                Path(features).write_text(seen)
            else:
                Path(features).mkdir()
                (Path(features) / "part.json").write_text("{}")
                (Path(features) / f"{shard:g} of {shards:g}").write_text(seen)
    """,
    "merge_features": """
        from pathlib import Path
        def merge_features(parts, features):
            found = {file.name: file.read_text() for part in parts for file in Path(part).glob("* of *")}
            assert set(found) == {f"{i} of {len(parts)}" for i in range(len(parts))} and len(set(found.values())) == 1
            Path(features).write_text(next(iter(found.values())))
    """,
    "score": """
        import json
        from pathlib import Path
        def score(images, detector, scores, *, shard, shards, **more):
            about = json.loads((Path(images) / "dataset.json").read_text())
            if shards == 1:
                Path(scores).write_text(json.dumps(about))
            else:
                Path(scores).mkdir()
                about |= {"dataset": about["name"], "shard": int(shard), "shards": int(shards)}
                (Path(scores) / "part.json").write_text(json.dumps(about))
    """,
    "merge_scores": """
        import json
        from pathlib import Path
        def merge_scores(parts, scores):
            found = [json.loads((Path(part) / "part.json").read_text()) for part in parts]
            assert [part["shard"] for part in found] == list(range(found[0]["shards"]))
            (whole,) = {json.dumps({key: part[key] for key in ("name", "digest")}) for part in found}
            Path(scores).write_text(whole)
    """,
}
PLAIN = """
    from pathlib import Path
    def {name}(*paths, **given):
        places = {{name: value for name, value in given.items() if str(value).startswith("/")}}
        parameters = {{name: value for name, value in given.items() if name not in places}}
        for path in [places[output] for output in {outputs} if output in places] or paths[-len({outputs}):]:
            Path(path).write_text(str(parameters))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunResult]:
    """Runs the compiled pipeline on small text files; ``run(num_experts=3)``, ``run(work="another folder")``."""
    package = tmp_path / "stand-ins" / "mofe" / "stages"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    plain = {"texts": ["texts"], "partition": ["partition"], "finetune": ["model", "history"], "index": ["detector"]}
    for name, code in STAND_INS.items():
        (package / f"{name}.py").write_text(textwrap.dedent(code))
    for name, outputs in plain.items():
        (package / f"{name}.py").write_text(textwrap.dedent(PLAIN.format(name=name, outputs=outputs)))
    monkeypatch.setenv("PYTHONPATH", str(package.parents[1]))
    monkeypatch.chdir(tmp_path)
    for name in ("train", "test", "near", "far", "new", "more", "detector"):
        (tmp_path / name).write_text(name)
    sets = [{"dataset": name, "uri": name} for name in ("near", "far")]

    def start(pipeline: str = "mofe.yaml", work: str = "work", **parameters: Any) -> RunResult:
        given: dict[str, Any] = {"train_data": "train", "test_data": "test", "ood_data": sets}
        if pipeline == "detect.yaml":
            given = {"images": ["new", "more"], "detector": "detector"}
        return run_pipeline(compiled_pipeline(pipeline), {**given, **parameters}, tmp_path / work)

    return start


@pytest.fixture
def again(tmp_path: Path) -> Callable[..., RunResult]:
    """Runs one stage of an earlier run again; ``again("index", first.run_id, knn_k=9)``."""

    def start(stage: str, run_id: str, **parameters: Any) -> RunResult:
        earlier = earlier_run(tmp_path / "work", run_id)
        return run_again(earlier, stage, {**earlier.parameters, **parameters}, tmp_path / "work")

    return start
