"""What Kubeflow tells of a run, in terms of the pipeline's stages.

Its API lists the nodes of the Argo workflow that carries a run out: of each task a driver, a graph and in it an
executor, of each of these its tries, NAME(0), NAME(1), and loops and their rounds. A stage is the graph that has the
name of a task. One that ended in the second in which it began had nothing to execute: its result was in the cache.
"""

import re
from collections.abc import Iterator
from typing import Any

from mofe.rerun import FINDS, Documents, stage_of
from mofe.stage_log import exception_in

FINISHED = {"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"}


def stages_of(documents: Documents) -> dict[str, str]:
    """The tasks of a compiled pipeline that run a stage, with the names by which people know them.

    Kubeflow does not say in which of two graphs a task is: where they call it differently, its stage is its name.
    """
    components = {**documents[0].get("components", {}), "root": documents[0]["root"]}
    names: dict[str, str] = {}
    for component in components.values():
        for task, spec in component.get("dag", {}).get("tasks", {}).items():
            if "executorLabel" in components[spec["componentRef"]["name"]]:
                name = spec["taskInfo"]["name"]
                names[task] = name if names.get(task, name) == name else stage_of(task)
    return names


def finished(tasks: list[Any], stages: dict[str, str], told: dict[str, str]) -> Iterator[str]:
    """A line for each stage that has come to its end since the last look.

    Args:
        tasks: of a run, as the API lists them.
        stages: from :func:`stages_of`.
        told: which task was told with which state; written to.
    """
    ended = [task for task in tasks if task.display_name in stages and task.state in FINISHED]
    for task in sorted(ended, key=lambda task: str(task.end_time)):
        if told.get(task.task_id) == task.state:
            continue
        told[task.task_id] = task.state
        name, how = stages[task.display_name], str(task.state).lower()
        if task.state == "SUCCEEDED" and task.start_time and task.end_time:
            seconds = (task.end_time - task.start_time).total_seconds()
            if not seconds and name == FINDS:
                continue  # told when it was prepared
            how = f"{seconds:.0f} s" if seconds else "cached"
        yield f"{'✓' if task.state in ('SUCCEEDED', 'SKIPPED') else '✗'} {name:<24}{how:>10}"


def failed_stages(tasks: list[Any], stages: dict[str, str]) -> list[str]:
    """The names of the stages that failed, each once."""
    return list(
        dict.fromkeys(stages[t.display_name] for t in tasks if t.display_name in stages and t.state == "FAILED")
    )


def failed_nodes(tasks: list[Any]) -> list[str]:
    """The nodes of the workflow whose logs say why it failed: the last tries of executors and drivers."""
    return [
        task.child_tasks[-1].pod_name
        for task in tasks
        if re.fullmatch(r"executor|.*-driver", task.display_name or "") and task.state == "FAILED" and task.child_tasks
    ]


def cause_in(log: str) -> str:
    """Why a pod failed, from its log: the exception of its stage, or what Kubeflow's launcher says; "" if neither."""
    if cause := exception_in(re.sub(r"(?m)^Error: exit status \d+$", "", log)):  # Argo's last words
        return cause
    said = re.findall(r"(?m)(?:failed to execute component|KFP driver): (.*)$", log)
    return f"{said[-1]} (out of memory?)" if said and said[-1] == "signal: killed" else said[-1] if said else ""
