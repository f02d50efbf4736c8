"""Style and colours of the plots, and their conversion to SVG elements of a page."""

import io
from collections.abc import Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

ID_COLOUR = "#3b6fb6"
OOD_COLOURS = ("#d1495b", "#e28f2c", "#7a5195", "#2a9d8f", "#8d6a4f", "#c2569b", "#6b7b3a", "#4d4d4d")
EXPERT_COLOURS = ("#3b6fb6", "#59a14f", "#b6992d", "#76b7b2", "#9c6ade", "#f1a5a0", "#2f4b7c", "#a0b83c", "#86bcb6")
INK, RULE = "#3c4250", "#c9cfd8"


def svg(figure: Figure) -> str:
    """Convert a figure to an ``<svg>`` element; the same figure gives the same bytes."""
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "mofe", "svg.fonttype": "none"}):
        figure.savefig(
            text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    whole = text.getvalue()
    return whole[whole.index("<svg") :]


def new_axes(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    style: Any = {
        "font.size": 10,
        "font.family": "sans-serif",
        "axes.edgecolor": RULE,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, columns, squeeze=False)[0].tolist()
    return figure, axes


def colour_of(names: Sequence[str]) -> dict[str, str]:
    """Colour of each set, the same in every plot."""
    return {name: OOD_COLOURS[i % len(OOD_COLOURS)] for i, name in enumerate(names)}
