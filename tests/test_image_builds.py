"""docker/build.py against an engine that only remembers: what is built, under which names, and what is pushed."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mofe import __version__

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[1]

ENGINE = """#!/usr/bin/env python3
import json, os, sys, uuid
state = os.environ["ENGINE_STATE"]
here, there = json.load(open(state)) if os.path.exists(state) else ({}, {})
verb, rest = sys.argv[1], sys.argv[2:]
if verb == "build":
    made = uuid.uuid4().hex
    here.update({rest[i + 1]: made for i, word in enumerate(rest) if word == "--tag"})
elif verb == "push":
    there[rest[0]] = here[rest[0]]
else:
    found = (there if verb == "manifest" else here).get(rest[-1])
    print("1000000" if "{{.Size}}" in rest else found or "")
    sys.exit(not found)
json.dump([here, there], open(state, "w"))
"""


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    engine = tmp_path / "bin" / "docker"
    engine.parent.mkdir()
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", str(engine.parent), prepend=os.pathsep)
    for name, value in {"REGISTRY": "r.example/t", "TARGETS": "report", "ENGINE": "docker", "PUSH": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ENGINE_STATE", str(tmp_path / "state.json"))
    return tmp_path / "state.json"


def images() -> str:
    done = subprocess.run([sys.executable, "docker/build.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def registry(state: Path) -> dict[str, str]:
    return json.loads(state.read_text())[1]


def test_the_plain_tag_moves_with_the_newest_content(state: Path) -> None:
    plain = f"r.example/t/mofe-report:{__version__}"
    assert "built" in images()
    before = registry(state)
    assert set(before) > {plain}, "content tags are pushed, too"
    assert "there already" in images()
    assert registry(state) == before

    content = next(name for name in before if name != plain)
    newer = {**before, plain: "what was pushed after an edit that has been taken back", content: before[content]}
    state.write_text(f"[{{}}, {json.dumps(newer)}]")
    assert "built" in images()
    after = registry(state)
    assert after[plain] != newer[plain]
    assert after[content] == before[content], "a content tag never moves"


def test_a_missing_content_is_pushed_with_the_plain_tag(state: Path) -> None:
    images()
    here, there = json.loads(state.read_text())
    plain = f"r.example/t/mofe-report:{__version__}"
    gone = sorted(name for name in there if name != plain)[0]
    old = there[plain]
    del there[gone]
    state.write_text(json.dumps([here, there]))
    images()
    assert registry(state)[gone] == registry(state)[plain] != old


def test_every_package_of_an_image_is_pinned() -> None:
    """With all that it requires, as far as it is installed here."""
    lines = (ROOT / "docker" / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    commands = re.findall(r"pip install ([^\\&\n]*)", (ROOT / "docker" / "Dockerfile").read_text())
    found = {Requirement(word) for words in commands for word in words.split() if word[0].isalpha()}
    assert len(found) > 20
    waiting = list(found)
    while waiting:
        package = waiting.pop()
        assert canonicalize_name(package.name) in pinned, f"{package.name} is not pinned: run `make pins` and commit"
        for needed in map(Requirement, required(package.name)):
            wanted = needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in ("", *package.extras))
            if wanted and needed not in found:
                found.add(needed)
                waiting.append(needed)


def required(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []
