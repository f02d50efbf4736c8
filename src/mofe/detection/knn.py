"""Nearest neighbours inside the subspace of the expert that an image is routed to (Sun et al., 2022).

Each expert has a bank: the L2-normalised embeddings of the training images of its cluster, seen through that expert.
The score of an image is minus its Euclidean distance to the k-th nearest of its expert's bank. The search is exact.
A global bank, as the authors' code has it, is one index for all experts.

No index is approximate. Where a bank in float32 would take more than :data:`LARGEST` bytes, all are held in float16,
which moves a distance by less than 1e-4 in 768 dimensions. Exact search is worth its time as long as an image costs
less in it than in the network: with a ViT-B/14, up to 30 million known images an expert (docs/scale.md).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np

from mofe.errors import MofeError

LARGEST = 1 << 30
"""Bytes of all embeddings in float32 above which they are held in float16."""
BLOCK = 16_384
"""Embeddings that are normalised, or brought back from float16, at once."""
MANY = 16
"""Queries from which on a product of matrices is quicker than FAISS, which compares vector by vector; eight times as
many where float16 has to be brought back first."""


class ExpertKNN:
    """One exact FAISS index per expert, or one for all; the ids in it are rows of the whole bank."""

    def __init__(self, indexes: Sequence[faiss.Index], k: int):
        self.indexes = indexes
        self.k = k

    @classmethod
    def build(cls, embeddings_ND: np.ndarray, experts_N: np.ndarray | None, k: int) -> Self:
        """Index N training embeddings by expert.

        Args:
            embeddings_ND: seen through the expert of their class, of any precision; normalised here, block by block.
            experts_N: that expert, 0 ≤ e < E = max + 1; None makes one bank for all experts.
            k: which neighbour's distance is the score; an expert with fewer embeddings uses its farthest.

        Raises:
            MofeError: k < 1, an embedding is not finite or is zero, or an expert has none.
        """
        if k < 1:
            raise MofeError(f"knn_k = {k} must be at least 1")
        experts_N = np.zeros(len(embeddings_ND), int) if experts_N is None else np.asarray(experts_N)
        count, width = embeddings_ND.shape
        indexes = []
        for expert in range(int(experts_N.max(initial=-1)) + 1):
            own = np.flatnonzero(experts_N == expert)
            if not own.size:
                raise MofeError(f"expert {expert} has no training embedding to compare with")
            index = faiss.IndexIDMap(_empty(width, half=4 * count * width > LARGEST))
            for start in range(0, len(own), BLOCK):
                rows = own[start : start + BLOCK]
                index.add_with_ids(_normalised(embeddings_ND[rows], rows), rows)
            indexes.append(index)
        return cls(indexes, k)

    def neighbours(self, embeddings_BD: np.ndarray, experts_B: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and bank rows (B, n) of the n nearest in each image's expert; inf and −1 past a bank's end."""
        normalised_BD = _normalised(embeddings_BD)
        bank_B = np.asarray(experts_B) if len(self.indexes) > 1 else np.zeros(len(normalised_BD), int)
        distance_Bn = np.full((len(normalised_BD), n), np.inf, np.float32)
        row_Bn = np.full((len(normalised_BD), n), -1, np.int64)
        for bank, index in enumerate(self.indexes):
            mine = np.flatnonzero(bank_B == bank)
            if mine.size and n:
                take = min(n, index.ntotal)
                squared, found = _nearest(index, normalised_BD[mine], take)
                distance_Bn[mine, :take] = np.sqrt(np.maximum(squared, 0))
                row_Bn[mine, :take] = found
        return distance_Bn, row_Bn

    def score(self, embeddings_BD: np.ndarray, experts_B: np.ndarray) -> np.ndarray:
        """Minus the distance to the k-th nearest of the expert's bank, float32 (B,), in [−2, 0]."""
        return self.score_of(self.neighbours(embeddings_BD, experts_B, self.k)[0])

    def score_of(self, distance_Bn: np.ndarray) -> np.ndarray:
        """The same, of the distances to the n ≥ k nearest that :meth:`neighbours` gave."""
        held_B = np.isfinite(distance_Bn[:, : self.k]).sum(axis=1)
        return -distance_Bn[np.arange(len(distance_Bn)), held_B - 1]

    def save(self, folder: str | Path) -> None:
        """Write ``expert-NNN.faiss`` for each expert into ``folder``, and ``knn.json`` last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for expert, index in enumerate(self.indexes):
            faiss.write_index(index, str(folder / f"expert-{expert:03d}.faiss"))
        (folder / "knn.json").write_text(json.dumps({"k": self.k, "experts": len(self.indexes)}))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote; indexes are memory-mapped.

        Raises:
            MofeError: a file is missing or damaged.
        """
        folder = Path(folder)
        try:
            info = json.loads((folder / "knn.json").read_text())
            files = [folder / f"expert-{expert:03d}.faiss" for expert in range(info["experts"])]
            indexes = [faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC) for file in files]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise MofeError(f"{folder} holds no usable KNN indexes: {str(error).splitlines()[0]}") from error
        return cls(indexes, info["k"])


def _empty(width: int, half: bool) -> faiss.Index:
    if not half:
        return faiss.IndexFlatL2(width)
    return faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)


def _nearest(index: Any, queries_BD: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and ids (B, n), nearest first."""
    held: Any = faiss.downcast_index(index.index)
    stored = np.float32 if isinstance(held, faiss.IndexFlat) else np.float16
    if len(queries_BD) < (MANY if stored is np.float32 else 8 * MANY):
        return index.search(queries_BD, n)
    bank_ND = faiss.rev_swig_ptr(held.codes.data(), held.codes.size()).view(stored).reshape(held.ntotal, held.d)
    squared: np.ndarray = np.empty((len(queries_BD), 0), np.float32)
    row: np.ndarray = np.empty((len(queries_BD), 0), np.int64)
    for start in range(0, held.ntotal, BLOCK):
        block_MD = bank_ND[start : start + BLOCK].astype(np.float32, copy=False)
        found_BM = 1 + np.einsum("md,md->m", block_MD, block_MD) - 2 * queries_BD @ block_MD.T  # queries have length 1
        rows_BM = np.broadcast_to(np.arange(start, start + len(block_MD)), found_BM.shape)
        squared, row = np.hstack([squared, found_BM]), np.hstack([row, rows_BM])
        if squared.shape[1] > n:
            least_Bn = np.argpartition(squared, n - 1, axis=1)[:, :n]
            squared, row = np.take_along_axis(squared, least_Bn, axis=1), np.take_along_axis(row, least_Bn, axis=1)
    order_Bn = squared.argsort(axis=1)
    squared, row = np.take_along_axis(squared, order_Bn, axis=1), np.take_along_axis(row, order_Bn, axis=1)
    return squared, faiss.vector_to_array(index.id_map)[row]


def _normalised(embeddings_BD: np.ndarray, numbers_B: np.ndarray | None = None) -> np.ndarray:
    """Of length 1, float32; ``numbers_B`` is what an error calls them by."""
    embeddings_BD = np.asarray(embeddings_BD, np.float32)
    norm_B = np.linalg.norm(embeddings_BD, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norm_B[:, 0]) | (norm_B[:, 0] == 0))
    if bad.size:
        number = bad[0] if numbers_B is None else numbers_B[bad[0]]
        raise MofeError(f"embedding {number} is not finite or is zero: it has no direction")
    return np.ascontiguousarray(embeddings_BD / norm_B)
