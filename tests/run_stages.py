"""Runs stages, each in a process of its own, and notes the files that each opens and the modules that it imports.

    python tests/run_stages.py CALLS.json SEEN.json

CALLS.json holds the calls of each stage, in order: ``{"prepare": [{"source": …}, …], …}``. SEEN.json gets, for each
stage, the paths and the names of modules.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

# slow to import, so once for all; nothing of mofe, whose imports are what is noted
import faiss
import jinja2
import matplotlib.pyplot
import mlflow.pyfunc
import open_clip
import pyarrow.dataset
import sklearn.cluster
import sklearn.manifold
import timm
import torchvision

__all__ = ["faiss", "jinja2", "matplotlib", "mlflow", "open_clip", "pyarrow", "sklearn", "timm", "torchvision"]


def run(stage: str, calls: list[dict[str, Any]]) -> list[str]:
    """Make the calls; what was opened and imported meanwhile."""
    seen: set[str] = set()

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "import") and not isinstance(arguments[0], int):
            seen.add(os.fsdecode(arguments[0]))

    sys.addaudithook(note)
    function = getattr(importlib.import_module(f"mofe.stages.{stage}"), stage)
    for arguments in calls:
        function(**arguments)
    return sorted(seen)


def main() -> None:
    """Fork for each stage: a module that one has imported would not be imported again by the next."""
    calls, target = (Path(name) for name in sys.argv[1:])
    seen = {}
    for stage, given in json.loads(calls.read_text()).items():
        if not (child := os.fork()):
            target.write_text(json.dumps(run(stage, given)))
            sys.stdout.flush()
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{stage} failed: see above")
        seen[stage] = json.loads(target.read_text())
    target.write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
