"""Measure each part of the method on photographs: pre-trained, naive, + MoFE, + Dynamic-β Mixup, both.

    python experiments/tiny_imagenet.py --data DIR                        # 15 classes, the better backbone, 3 seeds
    python experiments/tiny_imagenet.py --data DIR --every 1              # all 100 classes
    python experiments/tiny_imagenet.py --data DIR --backbone standin-vit

It runs the pipeline of the paper's tables (pipelines/compiled/tables.yaml), so runs are cached and a stopped run can be
continued. First it measures the pre-trained backbone by the accuracy of its 20 nearest neighbours on the ID classes.
It writes experiments/results/NAME.json, and prints the tables in Markdown.
"""

import argparse
import json
import time
from pathlib import Path

from neighbours import embeddings, neighbours_accuracy
from photographs import BACKBONES, HERE, machine, parameters

from mofe.parameters.file import check_parameters, pipeline_parameters
from mofe.report.tables import format_tables, read_tables
from mofe.runners.digests import compiled_pipeline
from mofe.runners.local import run_pipeline

PLACES = ("train_data", "test_data", "ood_data", "weights", "checkpoints")
"""Parameters whose values are places on this machine."""


def main() -> None:
    """Measure, print the tables, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of id-train.parquet and the others")
    parser.add_argument("--backbone", choices=BACKBONES, default="photograph-vit")
    parser.add_argument("--every", type=int, default=7, help="take every n-th ID class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tables", nargs="*", default=["1-3", "4"], help="see mofe.report.configurations.TABLES")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other parameters, as JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-imagenet-tables"))
    options = parser.parse_args()

    name = f"tiny-imagenet-{options.backbone}-every-{options.every}-tables-{'-'.join(options.tables) or 'own'}"
    given = parameters(options.data.resolve(), options.work.resolve(), options.backbone, options.every)
    given |= {key: json.loads(value) for key, value in (setting.split("=", 1) for setting in options.set)}
    started = time.monotonic()
    place = options.work / options.backbone / str(options.every)
    accuracy = neighbours_accuracy(*(embeddings(given, role, place) for role in ("train", "test")))
    print(f"pre-trained backbone: accuracy of its 20 nearest neighbours on ID test images {accuracy:.1%}", flush=True)
    pipeline = compiled_pipeline("tables.yaml")
    given |= {"tables": options.tables, "seeds": options.seeds, "checkpoints": str(options.work.resolve() / "kept")}
    check_parameters(given, pipeline_parameters(pipeline), "experiments/photographs.yaml")
    result = run_pipeline(pipeline, given, options.work, name=name)
    tables = json.loads(result.outputs["results"].read_text())
    print(f"\n{format_tables(read_tables(result.outputs['results']))}\n")
    report = {
        "neighbours_accuracy": accuracy,
        "tables": tables,
        "parameters": {key: value for key, value in given.items() if key not in PLACES},
        "machine": machine(),
        "minutes": (time.monotonic() - started) / 60,
    }
    file = HERE / "results" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {file}")


if __name__ == "__main__":
    main()
