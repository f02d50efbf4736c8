"""The numbers of equations are those of the paper, in docstrings and in docs/explanation/method.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mofe.models.mofe import MoFE
from mofe.training import losses, mixup, step
from mofe.training.mixup import DynamicBetaMixup

ROOT = Path(__file__).parents[1]
OF_PAPER: list[tuple[Any, set[int]]] = [
    (MoFE, {4, 5, 6, 7}),
    (MoFE.run_experts, {4}),  # the block
    (MoFE.forward, {5, 7}),  # the norm, of the top-k sum
    (MoFE.route, {6}),  # softmax router
    (MoFE.gates, {6}),
    (losses, {8, 9, 10}),
    (step.Losses, {8, 9, 10, 14}),
    (mixup, {11, 12, 13}),
    (DynamicBetaMixup.__call__, {11}),  # Mixup
    (DynamicBetaMixup.update, {12}),  # σ
    (DynamicBetaMixup.sample, {13}),  # folding
    (losses.embedding_norm, {14}),  # Reg
]
IN_WORDS = {
    "4": "block", "5": "norm", "6": "softmax", "7": "top k", "8–10": "losses", "11": "x̂ =", "12": "σ = 1 − w·s",
    "13": "max(λ, 1 − λ)", "14": "Reg",
}  # fmt: skip


def numbers(text: str) -> set[int]:
    """Numbers of the equations that a text names: of "Eq. 4", "Eq. 8-10" and "Eq. 6 and 7"."""
    found: set[int] = set()
    for first, last in re.findall(r"(?:Eq\. |(?<=\d) and )(\d+)(?:[-–](\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return found


@pytest.mark.parametrize(("documented", "expected"), OF_PAPER)
def test_a_docstring_names_the_papers_number(documented: Callable[..., Any], expected: set[int]) -> None:
    assert numbers(documented.__doc__ or "") == expected


def test_no_other_docstring_names_an_equation() -> None:
    named = {part for documented, _ in OF_PAPER for part in re.findall(r"Eq\. [\d-]+", documented.__doc__ or "")}
    texts = {file: file.read_text("utf-8") for file in (ROOT / "src").rglob("*.py")}
    found = {(part, file.name) for file, text in texts.items() for part in re.findall(r"Eq\. [\d-]+", text)}
    assert {part for part, _ in found} == named
    assert {name for _, name in found} == {"mofe.py", "losses.py", "step.py", "mixup.py", "configurations.py"}


def test_the_page_of_the_method_has_the_papers_numbers() -> None:
    page = (ROOT / "docs/explanation/method.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| (\d[\d–]*) \| ([^|]+) \|", page, re.MULTILINE))
    assert list(rows) == list(IN_WORDS)
    for number, words in IN_WORDS.items():
        assert words in rows[number]


@pytest.mark.parametrize("claim", [r"paper's (seven|super-categor)", r"(RandAugment[^|.]*): the paper's"])
def test_nothing_is_called_the_papers_that_the_paper_does_not_say(claim: str) -> None:
    pages = [file for folder in ("src", "docs", "examples", "pipelines") for file in (ROOT / folder).rglob("*.*")]
    for file in pages:
        if file.suffix in (".py", ".md", ".yaml"):
            assert not re.search(claim, " ".join(file.read_text("utf-8").split())), file
