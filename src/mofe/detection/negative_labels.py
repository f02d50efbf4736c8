"""NegLabel: comparison of the known classes' names with many words that are far from them (Jiang et al., 2024).

B images, C classes, K negative words, G groups, D dimensions.
"""

import torch
from torch import Tensor

from mofe.detection.concept_matching import cosines
from mofe.errors import MofeError


def far_words(word_KD: Tensor, text_CD: Tensor, share: float = 0.15, quantile: float = 0.95) -> Tensor:
    """Find the words that are farthest from the known classes, the paper's NegMining.

    The similarity of a word is the 0.95 quantile of its cosines to the classes, as in the official code. The ⌊0.15 K⌋
    least similar words are kept, the least similar first. The official code does this separately for WordNet's nouns
    ("the nice {}") and its adjectives ("This is a {} photo").

    Args:
        word_KD: embeddings of the candidate words.
        text_CD: embeddings of the class names.
        share: share of the words to keep.
        quantile: quantile of the cosines that is a word's similarity.

    Returns:
        Rows of the words, (⌊share · K⌋,) int64.

    Raises:
        MofeError: ``share`` or ``quantile`` is not in [0, 1], or an embedding is invalid.
    """
    if not (0 <= share <= 1 and 0 <= quantile <= 1):
        raise MofeError(f"share = {share} and quantile = {quantile} must lie in [0, 1]")
    near_K = torch.cat([cosines(part, text_CD).quantile(quantile, dim=1) for part in word_KD.split(1000)])
    return near_K.argsort(stable=True)[: int(len(near_K) * share)]


def shuffled_groups(count: int, groups: int = 100, seed: int = 0) -> Tensor:
    """Rows of the negative words in the groups, one group after the other, (G · ⌊K / G⌋,).

    As in the official code, the last K mod G words are dropped and the others are permuted with seed 0. The permutation
    is drawn on the CPU, the official one by a CUDA generator. To reproduce the official numbers, use that permutation
    instead of this one.
    """
    if not 0 < groups <= count:
        raise MofeError(f"{count} negative words cannot make up {groups} groups")
    return torch.randperm(count - count % groups, generator=torch.Generator().manual_seed(seed))


def neg_label(
    image_BD: Tensor, text_CD: Tensor, negative_KD: Tensor, groups: int = 100, logit_scale: float = 100.0
) -> Tensor:
    """S = 1/G Σ_g Σ_c e^(s cos(f, t_c)) / (Σ_c e^(s cos(f, t_c)) + Σ_{k in g} e^(s cos(f, n_k))).

    Args:
        image_BD: image embeddings.
        text_CD: embeddings of the class names.
        negative_KD: embeddings of the negative words, group after group (``negatives[shuffled_groups(K)]``); the last
            K mod G are left out.
        groups: G; the official code has 100, and 1 puts all words into one softmax.
        logit_scale: s; the official code has 100.

    Returns:
        Scores (B,) in [0, 1], float64 so that images near 1 do not tie.

    Raises:
        MofeError: there are fewer words than groups, or an embedding is invalid.
    """
    if not 0 < groups <= len(negative_KD):
        raise MofeError(f"{len(negative_KD)} negative words cannot make up {groups} groups")
    negative_KD = negative_KD[: len(negative_KD) - len(negative_KD) % groups]
    known_B = (logit_scale * cosines(image_BD, text_CD).double()).logsumexp(dim=1)
    word_BGk = (logit_scale * cosines(image_BD, negative_KD).double()).unflatten(1, (groups, -1))
    return (known_B[:, None] - word_BGk.logsumexp(dim=2)).sigmoid().mean(dim=1)
