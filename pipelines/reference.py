"""Writes docs/reference/parameters.md from the compiled pipelines: type, default and description of each parameter.

python -m pipelines.reference
"""

import inspect
import json
from pathlib import Path
from typing import Any

from mofe.parameters.file import pipeline_parameters
from mofe.runners.digests import compiled_pipeline
from pipelines.detect import detect
from pipelines.mofe import mofe
from pipelines.sharded import sharded
from pipelines.tables import tables

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "parameters.md"
HEAD = """# Parameters

The parameters of `mofe run -f params.yaml`, of Kubeflow's form and of `kfp run create`. `make compile` writes this page
from the compiled pipelines; do not edit it by hand. Values are written as YAML, and on a command line as `name=value`.
Why the defaults are what they are: [The method](../explanation/method.md).
"""
TYPES = {
    "STRING": "text",
    "NUMBER_INTEGER": "whole number",
    "NUMBER_DOUBLE": "number",
    "BOOLEAN": "true or false",
    "LIST": "list",
    "STRUCT": "mapping",
}


def page() -> str:
    """Make the whole page. It lists a parameter that sharded or tables share with mofe once."""
    one, split = parameters("mofe", mofe), parameters("sharded", sharded)
    several, batch = parameters("tables", tables), parameters("detect", detect)
    missing = ", ".join(f"`{name}`" for name in one if name not in several)
    parts = [
        HEAD,
        "## mofe: one detector",
        table(one),
        "## sharded: the same, with extract and score in shards",
        "The parameters of `mofe`, and:",
        table({name: parameter for name, parameter in split.items() if name not in one}),
        "## tables: many configurations, compared",
        f"The parameters of `mofe` without {missing}, and:",
        table({name: parameter for name, parameter in several.items() if name not in one}),
        "## detect: predictions on very many images",
        table(batch),
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def parameters(name: str, pipeline: Any) -> dict[str, dict[str, Any]]:
    """Compiled parameters of a pipeline in the order of its code, because the YAML sorts them by name."""
    compiled = pipeline_parameters(compiled_pipeline(f"{name}.yaml"))
    return {name: compiled[name] for name in inspect.signature(pipeline.pipeline_func).parameters}


def table(parameters: dict[str, dict[str, Any]]) -> str:
    """Make a Markdown table with one row per parameter."""
    rows = ["| parameter | type | default | |", "|---|---|---|---|"]
    for name, parameter in parameters.items():
        kind, description = parameter["parameterType"], " ".join(parameter["description"].split())
        default = f"`{format_default(parameter['defaultValue'], kind)}`" if "defaultValue" in parameter else "required"
        rows.append(f"| `{name}` | {TYPES[kind]} | {default} | {description} |")
    return "\n".join(rows)


def format_default(default: Any, kind: str) -> str:
    """Write a default as in a parameter file: the YAML holds the whole number 1 as 1.0."""
    text = json.dumps(default, ensure_ascii=False)
    return text if kind in ("NUMBER_DOUBLE", "STRING") else text.replace(".0", "")


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
