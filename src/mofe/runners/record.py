"""What a run on this machine was asked and what came of it: ``run.json`` in its folder of logs, kept up to date."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mofe.errors import MofeError
from mofe.storage import locations, writing
from mofe.storage.typed_json import read_json

FILE = "run.json"


@dataclass
class Execution:
    """A stage that ran, or was found in the cache."""

    stage: str
    label: str
    """Tells executions of one stage apart: the data set."""
    cached: bool
    seconds: float
    key: str = ""
    """Of the cache: a digest of the image, the parameters and the inputs."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Values of its output parameters, and where its artifacts are."""


@dataclass
class RunRecord:
    """A run and its stages so far."""

    run: str
    name: str
    """Of the run in MLflow."""
    parameters: dict[str, Any]
    earlier_run: str = ""
    """Of which one stage was run again."""
    failure: str = ""
    executions: list[Execution] = field(default_factory=list)

    def write(self, logs: Path) -> None:
        """Write it into the run's folder of logs, in place of what was there."""
        writing.write_json(locations.resolve(logs / FILE), asdict(self))

    @classmethod
    def read(cls, work: Path, run: str) -> "RunRecord":
        """The record of a run.

        Raises:
            MofeError: the work folder has none of this run; with those that it has. Or the record is damaged.
        """
        file = work / "logs" / run / FILE
        if not run or not file.is_file():
            known = sorted((f.parent.name for f in work.glob(f"logs/*/{FILE}")), reverse=True)
            raise MofeError(
                f"there is no record of a run {run!r} in {work}; runs there: {', '.join(known[:5]) or 'none'}"
            )
        return read_json(file, cls, "record of a run")


@dataclass(frozen=True)
class Rerun:
    """One stage of an earlier run is run again: the cache holds all that comes before it, and nothing for it."""

    stage: str
    earlier: RunRecord

    def outputs_of(self, key: str) -> dict[str, Any] | None:
        """What a stage that no cache holds gave in the earlier run."""
        return next((e.outputs for e in self.earlier.executions if e.key == key), None)
