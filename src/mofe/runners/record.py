"""Record of a run on this machine: its parameters and its stages, in ``run.json`` in the folder of its logs."""

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
    """Text that distinguishes executions of one stage, for example the name of the data set."""
    cached: bool
    seconds: float
    key: str = ""
    """Key in the cache: a digest of the image, the parameters and the inputs."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Values of the output parameters, and URIs of the output artifacts."""


@dataclass
class RunRecord:
    """A run and its stages so far."""

    run: str
    name: str
    """Name of the run in MLflow."""
    parameters: dict[str, Any]
    earlier_run: str = ""
    """Id of the run that this run repeats a stage of; "" for a whole run."""
    failure: str = ""
    """Message with which the run failed; "" as long as it has not."""
    executions: list[Execution] = field(default_factory=list)

    def write(self, logs: Path) -> None:
        """Write the record into the folder of the run's logs, and replace an earlier one."""
        writing.write_json(locations.resolve(logs / FILE), asdict(self))

    @classmethod
    def read(cls, work: Path, run: str) -> "RunRecord":
        """Read the record of a run.

        Raises:
            MofeError: the work folder has no record of this run, and the message names other runs; or it is damaged.
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
    """A stage that runs again. The cache must hold all stages before it, and is not used for the stage itself."""

    stage: str
    earlier: RunRecord

    def outputs_of(self, key: str) -> dict[str, Any] | None:
        """Outputs of a stage in the earlier run, for stages that are never cached; None if it did not run."""
        return next((e.outputs for e in self.earlier.executions if e.key == key), None)
