"""What imports what: kept by import-linter (`make lint`), and, for what it cannot see, here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mofe
from mofe.stages import STAGES

SOURCE = Path(mofe.__file__).parent
PACKAGES_WITH_STUBS = {f"mofe.{stub.parent.name}" for stub in SOURCE.glob("*/__init__.pyi")} | {"mofe"}


def loads_torch(statement: str) -> bool:
    code = f"import sys\n{statement}\nprint('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


WITH_TENSORS = {"extract", "texts", "finetune", "index", "score", "judge"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in WITH_TENSORS])
def test_stages_without_tensors_load_no_torch(stage: str) -> None:
    assert not loads_torch(f"import mofe.stages.{stage}")


@pytest.mark.parametrize("statement", ["import mofe", "import mofe.cli", "import mofe.tracking, mofe.artifacts"])
def test_nor_do_the_package_and_its_command_line(statement: str) -> None:
    assert not loads_torch(statement)


def test_the_check_can_fail() -> None:
    assert loads_torch("import mofe.stages.extract")


def imports(file: Path) -> set[tuple[str, str]]:
    """``(module, name)`` of every ``from module import name`` and ``(module, "")`` of every ``import module``."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module or "", alias.name) for alias in node.names}
    return found


def test_only_the_runners_import_kfp() -> None:
    users = {f.name for f in SOURCE.rglob("*.py") for module, _ in imports(f) if module.split(".")[0] == "kfp"}
    assert users == {"local_runner.py", "kubeflow_runner.py"}


def test_the_library_imports_modules_not_their_lazy_packages() -> None:
    """``from mofe.models import MoFE`` hides a file from the digests, ``from mofe.models.mofe …`` does not."""
    for file in SOURCE.rglob("*.py"):
        for module, name in imports(file):
            if module in PACKAGES_WITH_STUBS and name:
                folder = SOURCE.joinpath(*module.split(".")[1:])
                is_module = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
                assert is_module or name == "__version__", f"{file.name}: from {module} import {name}"


def test_only_the_text_model_imports_open_clip_and_only_when_asked() -> None:
    """A run without a text model does not need the extra."""
    users = [file for file in SOURCE.rglob("*.py") if "open_clip" in {module for module, _ in imports(file)}]
    assert [file.name for file in users] == ["text_model.py"]
    at_once = [node for node in ast.parse(users[0].read_text()).body if isinstance(node, ast.Import)]
    assert "open_clip" not in {alias.name for node in at_once for alias in node.names}


def test_no_pickle_no_unsafe_yaml() -> None:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text()
        assert "pickle" not in {module for module, _ in imports(file)}
        assert "torch.load(" not in text
        assert "yaml.load(" not in text
