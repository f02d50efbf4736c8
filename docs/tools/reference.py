"""Write docs/reference/cli.md and artifacts.md from the code: the commands' help, and the models of the manifests.

python docs/tools/reference.py
"""

import ast
import importlib
import inspect
import io
import os
import pkgutil
import sys
import textwrap
from contextlib import redirect_stdout, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, get_args
from unittest.mock import patch

import pyarrow as pa
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import mofe.artifacts
from mofe.artifacts.manifest import Manifest
from mofe.cli.main import main
from mofe.stages import STAGES

FOLDER = Path(__file__).parents[1] / "reference"
COMMANDS = (
    "run",
    "report",
    "detect",
    "serve",
    "compile",
    "register",
    "schedule",
    "data check",
    "data digits",
    "data wordnet",
)
CLI_HEAD = """# Command line

`make compile` writes this page from the commands' own help; do not edit it by hand. Parameters of the pipelines, for
`--set` and for the file given with `-f`: [Parameters](parameters.md).

`MOFE_DEBUG=1` shows the stack of an error, which is otherwise one line. The exit status is 0 after success, 1 after an
error, 130 after Ctrl-C; `mofe detect` has [three more](../how-to/detect.md#exit-status)."""
ARTIFACTS_HEAD = """# Artifacts

`make compile` writes this page from the models in `mofe.artifacts`; do not edit it by hand. An artifact is a folder
that one stage writes and others read. Its manifest, a JSON file, is written last and holds the SHA-256 of every other
file. Tables are Parquet. How artifacts are protected: [Reliability](../explanation/reliability.md).

Every manifest has these fields, and the fields of its own section."""


def cli_page() -> str:
    """The help of every command, then a table of the stages."""
    parts = [CLI_HEAD]
    parts += [f"## mofe {command}\n\n```text\n{help_of(command)}\n```" for command in COMMANDS]
    rows = "\n".join(f"| `{stage}` | {first_line(f'mofe.stages.{stage}')} |" for stage in STAGES)
    parts.append(
        f"## mofe stage\n\n`mofe stage NAME --help` shows the options of one stage.\n\n| stage | |\n|---|---|\n{rows}"
    )
    return "\n\n".join(parts) + "\n"


def help_of(command: str) -> str:
    """The output of ``mofe COMMAND --help`` on a terminal of 100 columns without colours."""
    printed = io.StringIO()
    terminal = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with (
        patch.object(sys, "argv", ["mofe", *command.split(), "--help"]),
        patch.dict(os.environ, terminal),
        redirect_stdout(printed),
        suppress(SystemExit),
    ):
        main()
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def first_line(module: str) -> str:
    """The first sentence of a module's docstring."""
    return in_cell((importlib.import_module(module).__doc__ or "").split("\n\n")[0])


def artifacts_page() -> str:
    """One section for each module of mofe.artifacts that has a manifest or a schema."""
    parts = [ARTIFACTS_HEAD, fields_table(Manifest)]
    for found in sorted(pkgutil.iter_modules(mofe.artifacts.__path__), key=lambda module: module.name):
        module = importlib.import_module(f"mofe.artifacts.{found.name}")
        if module.__name__ != Manifest.__module__:
            parts += section(module)
    return "\n\n".join(part for part in parts if part) + "\n"


def section(module: ModuleType) -> list[str]:
    """The models and the Parquet schemas that a module defines."""
    own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
    models = [value for value in own if isinstance(value, type) and issubclass(value, BaseModel)]
    parts = []
    for model in models:
        name = getattr(model, "file_name", "")
        parts += [f"### {model.__name__}{f': `{name}`' if name else ''}", summary(model), fields_table(model)]
    for name, schema in schemas(module):
        parts += [f"### Columns: {name}", columns_table(schema)]
    if not parts:
        return []
    return [f"## mofe.artifacts.{module.__name__.rpartition('.')[2]}", first_line(module.__name__), *parts]


def summary(model: type[BaseModel]) -> str:
    """The first paragraph of a model's docstring."""
    return unmarked((inspect.getdoc(model) or "").split("\n\n")[0])


def fields_table(model: type[BaseModel]) -> str:
    """One row for each field that the model adds to its base class."""
    described = descriptions(model)
    inherited = {
        name for base in model.__mro__[1:] if base is not BaseModel for name in getattr(base, "__annotations__", {})
    }
    rows = [
        f"| `{name}` | `{type_name(field.annotation)}` | {default(field.default)} | {described.get(name, '')} |"
        for name, field in model.model_fields.items()
        if name not in inherited
    ]
    return "\n".join(["| field | type | default | |", "|---|---|---|---|", *rows]) if rows else ""


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Descriptions of the fields (the strings below them), by the field's name."""
    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = in_cell(inspect.cleandoc(text))
    return found


def schemas(module: ModuleType) -> list[tuple[str, pa.Schema]]:
    """The Parquet schemas of a module; a schema that depends on a size or on names is shown for a sample."""
    samples: dict[str, Any] = {"dim": 768, "scores": ["knn", "msp"], "classes": ["tench", "goldfish"]}
    found = []
    for name, value in vars(module).items():
        if isinstance(value, pa.Schema):
            found.append((name, value))
        elif name.endswith("_schema") and value.__module__ == module.__name__:
            arguments = {argument: samples[argument] for argument in inspect.signature(value).parameters}
            shown = ", ".join(f"{argument}={sample}" for argument, sample in arguments.items())
            found.append((f"{name}({shown})", value(**arguments)))
    return found


def columns_table(schema: pa.Schema) -> str:
    """One row for each column."""
    return "\n".join(["| column | type |", "|---|---|", *(f"| `{field.name}` | `{field.type}` |" for field in schema)])


def type_name(annotation: Any) -> str:
    """An annotation as in the source, without the names of modules."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__name__
    text = str(annotation).replace("typing.", "").replace("|", "or")
    return ".".join(part for part in [text] if part).replace("mofe.artifacts.", "").replace("NoneType", "None")


def default(value: Any) -> str:
    """A default in backticks; "" if the field is required."""
    return "" if value is PydanticUndefined else f"`{value!r}`"


def in_cell(text: str) -> str:
    """A docstring in one line, as a cell of a table."""
    return unmarked(" ".join(text.split())).replace("|", "\\|")


def unmarked(text: str) -> str:
    """A docstring without the roles and double backticks of reStructuredText."""
    for role in ("class", "func", "mod", "meth", "attr", "data"):
        text = text.replace(f":{role}:`", "`")
    return text.replace("`~", "`").replace("``", "`")


if __name__ == "__main__":
    (FOLDER / "cli.md").write_text(cli_page(), "utf-8")
    (FOLDER / "artifacts.md").write_text(artifacts_page(), "utf-8")
