"""What imports what: kept by import-linter (`make lint`), and, for what it cannot see, here."""

import ast
import gc
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


OUTSIDE_A_FOLDER = {"__init__", "__main__", "arguments", "device", "errors", "progress"}


def test_every_other_module_lies_in_a_folder() -> None:
    """The folders are what a reader finds the way by: a module among them belongs to all or to none."""
    assert {file.stem for file in SOURCE.glob("*.py")} == OUTSIDE_A_FOLDER


WITH_TENSORS = {"extract", "texts", "finetune", "index", "score", "predict"}


@pytest.mark.integration
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in WITH_TENSORS])
def test_stages_without_tensors_load_no_torch(stage: str) -> None:
    assert not loads_torch(f"import mofe.stages.{stage}")


CONTRACTS = ", ".join(f"mofe.artifacts.{file.stem}" for file in (SOURCE / "artifacts").glob("[a-z]*.py"))


@pytest.mark.integration
@pytest.mark.parametrize(
    "statement", ["import mofe", "import mofe.cli.main", f"import mofe.tracking.journal, {CONTRACTS}"]
)
def test_nor_do_the_package_and_its_command_line(statement: str) -> None:
    assert not loads_torch(statement)


@pytest.mark.integration
def test_the_check_can_fail() -> None:
    assert loads_torch("import mofe.stages.extract")


def test_fields_stand_in_the_published_order() -> None:
    from mofe.models.mofe import MoFEOutput
    from mofe.training.mixup import Mixed

    assert MoFEOutput._fields[:4] == ("router_logits_BE", "expert_B", "embedding_BD", "logits")
    assert Mixed._fields == ("images", "labels_a", "labels_b", "lam")


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
    assert users == {"local.py", "kfp_patches.py", "kubeflow_api.py"}


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


DANGEROUS = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",  # modules that run what they read
    "eval", "exec", "system", "popen", "mktemp", "extract", "extractall", "unpack_archive", "set_allow_pickle",
}  # fmt: skip


def dangers(text: str) -> list[str]:
    """Calls and imports that would let data run code, or write where it likes."""
    found = []
    for node in ast.walk(ast.parse(text)):
        names: list[str] = []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name.split(".")[0] for alias in node.names] + [
                str(getattr(node, "module", "")).split(".")[0]
            ]
        elif isinstance(node, ast.Call):
            names = [getattr(node.func, "attr", getattr(node.func, "id", ""))]
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            asked = ast.unparse(node.func)
            loader = next((ast.unparse(arg) for arg in [*node.args[1:], *(k.value for k in node.keywords)]), "")
            found += [asked] * (given.get("shell", "False") != "False" or given.get("allow_pickle", "False") != "False")
            found += [asked] * (asked in ("torch.load", "load_state_dict") and given.get("weights_only") != "True")
            found += [asked] * (asked.startswith("yaml.load") and "Safe" not in loader and "loader" not in loader)
            if asked == "extract" or (names[0] in ("eval", "exec") and asked != names[0]):
                names = []  # the stage; a model's mode of evaluation
        found += [name for name in names if name in DANGEROUS]
    return found


def test_data_runs_no_code_and_archives_are_not_extracted() -> None:
    gc.collect()  # CPython 3.11 miscounts where a generator is closed while it builds a tree
    for file in SOURCE.rglob("*.py"):
        assert not dangers(file.read_text()), file


@pytest.mark.parametrize(
    "line",
    ["import pickle", "from joblib import load", "torch.load(f)", "torch.load(f, weights_only=False)", "eval(x)",
     "yaml.load(x)", "yaml.load(x, yaml.Loader)", "tar.extractall(p)", "tar.extract(m)", "os.system(x)",
     "subprocess.run(x, shell=True)", "np.load(f, allow_pickle=True)", "shutil.unpack_archive(f)"],
)  # fmt: skip
def test_each_of_them_would_be_seen(line: str) -> None:
    assert dangers(line)
    assert not dangers("torch.load(f, weights_only=True)\nyaml.load(x, yaml.SafeLoader)\ntar.extractfile(m)")
