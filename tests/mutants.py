"""Mutation testing of the source files that a change touches: ``make mutants``.

mutmut changes one expression at a time and runs the tests that reach it. A mutant that no test notices must be
explained in tests/equivalent_mutants.txt, one line each:

    module.function: `original` -> `mutated`: reason

``module`` is the path below the package, ``original`` and ``mutated`` are the lines that differ, and ``…`` stands for
any text. ``[tool.mutmut]`` in pyproject.toml names the packages. The tests of a package are in the folder of the same
name; ``[tool.mofe.mutants]`` names further tests.

python -m tests.mutants [--base REVISION] [--list] [FILE ...]
"""

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import get_module_from_key, orig_function_and_class_names_from_key

ROOT = Path(__file__).parents[1]
EXPLAINED = Path(__file__).with_name("equivalent_mutants.txt")
LINE = re.compile(r"(?P<where>[\w.…]+): `(?P<original>.*)` -> `(?P<mutated>.*)`: (?P<reason>.+)")
COLLECT_STATS = mutmut.collect_or_load_stats
DEAD = ("killed", "timeout", "segfault")


def changed(base: str) -> list[str]:
    """Files that differ from ``base``, or from the previous commit if there is no such revision."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", base], cwd=ROOT, capture_output=True)
    revision = base if known.returncode == 0 else "HEAD~1"
    command = ["git", "diff", "--name-only", "--diff-filter=d", "--merge-base", revision]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def tests_of(files: list[str]) -> list[str]:
    """The tests that can notice a change of the files."""
    more = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mofe"]["mutants"]["more-tests"]
    packages = sorted({Path(file).parent.name for file in files})
    found = [test for package in packages for test in (f"tests/{package}", *more.get(package, []))]
    return [test for test in dict.fromkeys(found) if (ROOT / test).exists()]


def collect_stats(*args: Any, **options: Any) -> None:
    """Find the tests that reach each function, as mutmut does, and with one all tests that share a fixture with it.

    mutmut sees which test a fixture of a module is set up for, not which others use it.
    """
    COLLECT_STATS(*args, **options)
    tests_in: dict[str, set[str]] = defaultdict(set)
    for test in state().duration_by_test:
        tests_in[test.partition("::")[0]].add(test)
    sharing = {file for file in tests_in if 'scope="module"' in (ROOT / file).read_text()}
    for tests in state().tests_by_mangled_function_name.values():
        for file in {test.partition("::")[0] for test in tests} & sharing:
            tests |= tests_in[file]


def explanations() -> list[re.Pattern[str]]:
    """A pattern for each line of the file, which matches the texts of :func:`described`.

    Raises:
        SystemExit: a line does not have this form.
    """
    found = []
    for line in EXPLAINED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            match = LINE.fullmatch(line)
            if not match:
                raise SystemExit(f"{EXPLAINED.name}: {line!r} is not module.function: `original` -> `mutated`: reason")
            text = f"{match['where']}: `{match['original']}` -> `{match['mutated']}`"
            found.append(re.compile(".*".join(map(re.escape, text.split("…")))))
    return found


def described(name: str, path: Path) -> str:
    """The text of a mutant as in the file of explanations, without the reason."""
    function, of_class = orig_function_and_class_names_from_key(name)
    where = ".".join(filter(None, [get_module_from_key(name).partition(".")[2], of_class, function]))
    lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
    before, after = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return f"{where}: `{before}` -> `{after}`"


def survivors(counts: dict[str, Counter[str]]) -> Iterator[str]:
    """Yield the mutants that no test noticed and no line explains; add to ``counts`` by package."""
    explained = explanations()
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        count = counts.setdefault(path.parent.name, Counter())
        for name, code in data.exit_code_by_key.items():
            status = status_by_exit_code[code]
            if status in DEAD:
                count["killed"] += 1
                continue
            text = described(name, path)
            if any(pattern.fullmatch(text) for pattern in explained):
                count["explained"] += 1
            else:
                count["survived"] += 1
                yield f"{text}  [{name.rpartition('.')[2]}: {status}]"


def main() -> int:
    """Return 0 if each mutant is killed or explained, else 1."""
    parser = argparse.ArgumentParser(description="mutation testing of the files that a change touches")
    parser.add_argument("files", nargs="*", help="source files, instead of those that differ from the base")
    parser.add_argument("--base", default="origin/main", help="revision to compare with")
    parser.add_argument("--list", action="store_true", help="list the survivors of the last run, run nothing")
    args = parser.parse_args()
    files = [file for file in args.files or changed(args.base) if file.endswith(".py") and config().should_mutate(file)]
    if not files:
        print("no file for mutation testing has changed")
        return 0
    config().only_mutate = files
    config().pytest_add_cli_args_test_selection = tests_of(files)
    if not args.list:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
        mutmut.collect_or_load_stats = collect_stats
        mutmut.cli(["run", "--max-children", "1"], standalone_mode=False)
    counts: dict[str, Counter[str]] = {}
    left = list(survivors(counts))
    for line in left:
        print(line)
    for package, count in sorted(counts.items()):
        print(f"{package}: {count.total()} mutants, {dict(count)}")
    return bool(left)


if __name__ == "__main__":
    sys.exit(main())
