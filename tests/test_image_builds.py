"""scripts/images.py against an engine that only remembers: what is built, under which names, and what is pushed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mofe import __version__

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
    done = subprocess.run([sys.executable, "scripts/images.py"], cwd=ROOT, capture_output=True, text=True)
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
