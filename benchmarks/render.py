"""Write docs/benchmarks.md from benchmarks/results/NAME.json.

python benchmarks/render.py
"""

import json
from pathlib import Path

from side_by_side import RESULTS, Table, markdown

NAMES = {
    "knn_scoring": "Nearest neighbours",
    "image_loading": "Image loading",
    "training_step": "Training step",
    "partition": "Partition",
    "metrics_and_detectors": "Metrics and detectors",
    "pipeline_overhead": "Overhead of the pipeline",
    "gpu": "GPU: networks and neighbours",
    "gpu_stages": "GPU: stages from end to end",
}
"""Titles of the benchmarks in the order of the pipeline; those for a GPU are last."""
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
HEAD = """# Speed, measured side by side

`make benchmark` runs every script below, one after the other, and writes this page from `benchmarks/results/`; do not
edit it by hand. The scripts for a GPU measure nothing on a machine without one, so their figures are from the machine
that they name. Our work and a peer's are timed in alternation on the same machine. A ratio means more than a rate,
because other programs may have used the machine. For very large data: [Scale](explanation/scale.md).
"""


def main() -> None:
    """Write the page."""
    found = {name: json.loads(file.read_text()) for name in NAMES if (file := RESULTS / f"{name}.json").exists()}
    parts = [HEAD]
    parts += [f"`benchmarks/{name}.py`: not measured yet." for name in NAMES if name not in found]
    for name, content in found.items():
        machine = content["machine"]
        settings = ", ".join(f"{key} {value}" for key, value in content["settings"].items())
        versions = ", ".join(f"{package} {number}" for package, number in content["versions"].items())
        parts.append(f"## {NAMES[name]}\n\n`python benchmarks/{name}.py`")
        tables = content["tables"]
        parts += [markdown(Table(**table)) for table in [tables[-1], *tables[:-1]] if table["rows"]]
        parts += content["notes"]
        parts.append(
            f"{machine['cores']} cores ({machine['threads']}) of {machine['processor']}, {machine['memory']}, "
            f"accelerator: {machine['accelerator']}; load {machine['load']}; {settings}. "
            f"{machine['system']}; {versions}."
        )
    PAGE.write_text("\n\n".join(part.strip() for part in parts) + "\n")


if __name__ == "__main__":
    main()
