"""The feature space in two dimensions, before and after fine-tuning (the paper's Figures 1, 3 and 4)."""

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from mofe.report.figures import EXPERT_COLOURS, INK, colour_of, new_axes, svg

COMPONENTS = 50
"""Number of PCA components that t-SNE gets, as its authors advise."""


def project(embeddings_ND: np.ndarray) -> np.ndarray:
    """Project embeddings to two coordinates (N, 2) by cosine t-SNE (van der Maaten and Hinton, 2008), seeded.

    It takes about 2.5 s for 1000 embeddings.

    Args:
        embeddings_ND: embeddings of ID and OOD images together; N > 3.
    """
    normalised_ND = embeddings_ND / np.maximum(np.linalg.norm(embeddings_ND, axis=1, keepdims=True), 1e-12)
    components = min(COMPONENTS, *normalised_ND.shape)
    reduced = PCA(components, svd_solver="full", random_state=0).fit_transform(normalised_ND)
    perplexity = min(30.0, (len(reduced) - 1) / 3)
    tsne = TSNE(2, init="pca", perplexity=perplexity, max_iter=500, random_state=0)
    with threadpool_limits(
        1
    ):  # threads wait for one another at every step; on shared cores that takes ten times as long
        return tsne.fit_transform(reduced)


def feature_map(spaces: Mapping[str, np.ndarray], experts_N: np.ndarray, sets_N: Sequence[str]) -> str:
    """Draw one map per feature space: ID test images in the colour of their expert, OOD images as crosses.

    Args:
        spaces: embeddings (N, D) of the same images in each space, by title.
        experts_N: expert of an ID image's class; −1 for an OOD image.
        sets_N: name of the OOD set of an image; "" for an ID image.
    """
    figure, every = new_axes(10.5, 5.2, columns=len(spaces))
    names = np.array(sets_N)
    ood = [name for name in dict.fromkeys(sets_N) if name]
    colours = colour_of(ood)
    for axes, (title, embeddings_ND) in zip(every, spaces.items(), strict=True):
        at_N2 = project(np.asarray(embeddings_ND, np.float32))
        for expert in range(int(experts_N.max()) + 1):
            own = experts_N == expert
            tint = EXPERT_COLOURS[expert % len(EXPERT_COLOURS)]
            axes.scatter(*at_N2[own].T, s=14, color=tint, alpha=0.75, lw=0, label=f"expert {expert}")
        for name in ood:
            own = names == name
            axes.scatter(*at_N2[own].T, s=13, marker="x", color=colours[name], alpha=0.6, lw=0.9, label=name)
        axes.set_title(title, loc="left", size=10, color=INK)
        axes.set(xticks=[], yticks=[])
        axes.spines[["left", "bottom"]].set_visible(False)
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return svg(figure)
