"""The partition as a picture."""

from mofe.artifacts import Partition
from mofe.report.figures import ID_COLOUR, INK, new_axes, svg

NAMED = 6
"""Classes that a bar names."""


def partition_plot(partition: Partition) -> str:
    """One bar an expert, as long as it has classes, with their names and the WordNet synset it grew from."""
    experts = range(partition.num_experts)
    sizes = [len(partition.classes_of(e)) for e in experts]
    figure, (axes,) = new_axes(9.0, 0.8 + 0.5 * partition.num_experts)
    axes.barh(list(experts), sizes, color=ID_COLOUR, alpha=0.3, height=0.8)
    for expert, size in zip(experts, sizes, strict=True):
        names = [partition.names[c] for c in partition.classes_of(expert)]
        text = ", ".join(names[:NAMED]) + (f", … ({size})" if size > NAMED else f" ({size})")
        axes.annotate(text, (0, expert), (6, 0), textcoords="offset points", va="center", size=8.5, color=INK)
    grown = [seed.synset.split(".")[0].replace("_", " ") for seed in partition.seeds]
    axes.set_yticks(list(experts), [f"{e}  {grown[e]}" if grown else f"expert {e}" for e in experts])
    axes.invert_yaxis()
    axes.set_xlabel("classes")
    return svg(figure)
