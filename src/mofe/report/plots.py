"""Plots of the report, each an SVG string without scripts or external fonts."""

from collections.abc import Mapping, Sequence

import numpy as np

from mofe.artifacts.model import Epoch
from mofe.detection.metrics import ROC
from mofe.report.figures import ID_COLOUR, INK, OOD_COLOURS, RULE, colour_of, new_axes, svg


def roc_plot(curves: Mapping[str, ROC], auroc: Mapping[str, float]) -> str:
    """Draw ROC curves with ID positive, one line per OOD set, and the line at which 95 % of ID images are kept."""
    figure, (axes,) = new_axes(5.2, 4.6)
    colours = colour_of(list(curves))
    axes.plot([0, 1], [0, 1], color=RULE, lw=1)
    axes.axhline(0.95, color=INK, lw=0.8, ls=(0, (4, 3)))
    axes.annotate("95 % of ID kept", (1, 0.95), (0, -4), textcoords="offset points", ha="right", va="top", size=8.5)
    for name, curve in curves.items():
        axes.plot(curve.fpr, curve.tpr, color=colours[name], lw=2, label=f"{name}  (AUROC {auroc[name]:.2%})")
    axes.set(xlabel="OOD images accepted as ID", ylabel="ID images kept", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    return svg(figure)


def histogram(
    id_scores: np.ndarray, ood_scores: np.ndarray, threshold: float, name: str, colour: str, score: str
) -> str:
    """Draw score densities of the ID test set and one OOD set, and the threshold that keeps 95 % of ID."""
    figure, (axes,) = new_axes(5.2, 2.5)
    low, high = np.quantile(np.r_[id_scores, ood_scores], [0.001, 0.999])
    bins = np.linspace(low, high if high > low else low + 1e-6, 50)
    for values, tint, label in ((id_scores, ID_COLOUR, "ID test"), (ood_scores, colour, name)):
        density, _ = np.histogram(values, bins, density=True)
        axes.stairs(density, bins, fill=True, color=tint, alpha=0.35)
        axes.stairs(density, bins, color=tint, lw=1.4, label=label)
    axes.axvline(threshold, color=INK, lw=1, ls=(0, (4, 3)))
    axes.set(xlabel=f"{score} score (higher: more in-distribution)", yticks=[])
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    return svg(figure)


def confusion_plot(counts_EE: np.ndarray) -> str:
    """Draw the share of the images of each true expert (row) that the router sends to each expert (column)."""
    experts = len(counts_EE)
    share_EE = counts_EE / np.maximum(counts_EE.sum(axis=1, keepdims=True), 1)
    figure, (axes,) = new_axes(1.6 + 0.42 * experts, 1.2 + 0.42 * experts)
    axes.pcolormesh(share_EE, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
    for row in range(experts):
        for column in range(experts):
            tone = "white" if share_EE[row, column] > 0.55 else INK
            text = f"{100 * share_EE[row, column]:.0f}"
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=tone, size=8.5)
    ticks = np.arange(experts) + 0.5
    axes.set_xticks(ticks, range(experts))
    axes.set_yticks(ticks, range(experts))
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set(xlabel="sent to expert", ylabel="belongs to expert", aspect="equal")
    return svg(figure)


def class_plot(epochs: Sequence[Epoch], order_C: Sequence[int], groups: Sequence[int]) -> str:
    """Draw validation accuracy and σ of every class (rows) over epochs (columns).

    Args:
        epochs: epochs of training; the first is the state after the linear probe.
        order_C: classes from top to bottom, those of one expert together.
        groups: number of classes of each expert, in that order.
    """
    figure, (accuracies, sigmas) = new_axes(10.5, 3.6, columns=2)
    borders = np.cumsum(groups)
    for axes, field, title, colours in (
        (accuracies, "class_accuracy", "validation accuracy of each class", "Blues"),
        (sigmas, "sigma", "σ of each class", "Purples"),
    ):
        values_CE = np.array([getattr(epoch, field) for epoch in epochs]).T[list(order_C)]
        edges = (-0.5, len(epochs) - 0.5, len(values_CE), 0)
        picture = axes.imshow(
            values_CE, aspect="auto", cmap=colours, vmin=0, vmax=1, extent=edges, interpolation="nearest"
        )
        for border in borders[:-1]:
            axes.axhline(border, color=INK, lw=0.6)
        middles = borders - np.array(groups) / 2
        axes.set_yticks(middles, [f"expert {e}" for e in range(len(groups))], size=8)
        axes.tick_params(length=0)
        axes.set_title(title, loc="left", size=10, color=INK)
        axes.set_xlabel("epoch (0: after the linear probe)", size=9)
        figure.colorbar(picture, ax=axes, pad=0.02).outline.set_visible(False)
    return svg(figure)


def training_plot(epochs: Sequence[Epoch]) -> str:
    """Draw losses, accuracies on the validation split, and σ of Mixup over the classes."""
    figure, (losses, accuracies, sigmas) = new_axes(10.5, 2.9, columns=3)
    x = [e.epoch for e in epochs]
    trained = [e for e in epochs if e.epoch > 0]
    parts = {"router": "route_loss", "experts": "expert_loss", "regulariser": "regulariser"}
    for (label, field), tint in zip(parts.items(), OOD_COLOURS, strict=False):
        values = [getattr(e, field) for e in trained]
        if any(values):
            losses.plot([e.epoch for e in trained], values, color=tint, lw=1.8, label=label)
    accuracies.plot(x, [100 * e.router_accuracy for e in epochs], color=OOD_COLOURS[0], lw=1.8, label="router")
    accuracies.plot(x, [100 * e.validation_accuracy for e in epochs], color=ID_COLOUR, lw=1.8, label="class")
    by_quantile = np.array([np.quantile(e.sigma, [0, 0.5, 1]) for e in epochs])
    sigmas.fill_between(x, by_quantile[:, 0], by_quantile[:, 2], color=ID_COLOUR, alpha=0.18, label="all classes")
    sigmas.plot(x, by_quantile[:, 1], color=ID_COLOUR, lw=1.8, label="median class")
    for axes, title in ((losses, "loss"), (accuracies, "validation accuracy (%)"), (sigmas, "σ of Mixup")):
        axes.set_title(title, loc="left", size=10, color=INK)
        axes.set_xlabel("epoch (0: after the linear probe)", size=9)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=9)
    sigmas.set_ylim(0, 1.05 * max(1.0, by_quantile.max()))
    return svg(figure)
