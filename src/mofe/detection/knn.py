"""Nearest neighbours inside the subspace of the expert that an image is routed to (Sun et al., 2022).

Each expert has a bank: the L2-normalised embeddings of the training images of its cluster, computed by that expert.
The score of an image is minus its Euclidean distance to the k-th nearest embedding in its expert's bank. A global bank,
as in the authors' code, is one index for all experts.

No index is approximate. Where a bank in float32 would take more than :data:`LARGEST` bytes, all are held in float16,
which moves a distance by less than 1e-4 in 768 dimensions. Squared distances come from a product of matrices, whose
float32 is off by up to 3e-6. That is too much for near neighbours. So a query whose farthest neighbour found is nearer
than :data:`CLOSE` is searched again in float64, which is off by less than 1e-12 (4 D · 2⁻⁵³) and takes about three
times as long.

Exact search is worth its time as long as an image costs less in it than in the network: with a ViT-B/14, up to 30
million known images an expert (docs/explanation/scale.md).

FAISS stores the embeddings and their files. The search itself is a matrix product and a partial sort, because an expert
gets few queries at once, for which this takes a sixth of FAISS's time. It runs on a GPU if the banks take less than
half of the GPU's free memory, else on the CPU.

Axes: N embeddings of a bank, M of a block of it, B queries, D features, n neighbours.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mofe.arguments import array, local_folder, whole
from mofe.device import device
from mofe.errors import MofeError, in_one_line, shown

LARGEST = 1 << 30
"""Size in bytes of all embeddings in float32, above which they are held in float16."""
BLOCK = 16_384
"""Number of embeddings that are normalised, or compared, at once."""
TILE = 1024
"""Number of embeddings that are converted from float16 at once, so that they stay in the processor's cache."""
QUERIES = 256
"""Number of queries that are compared at once."""
MOST_NEIGHBOURS = 1 << 20
"""Largest number of neighbours that a search returns for each query."""
CLOSE = 1e-2
"""Squared distance below which neighbours are selected in float64, and distances come from differences.

Elsewhere float32's error moves a distance by less than 2e-5, and by less than 2e-4 of itself.
"""


def default_k(num_images: int) -> int:
    """Default k for a number of training images, including held-out ones.

    It is 1000 for the 1 281 167 images of ImageNet-1K, in proportion for other numbers, and at least 5.
    """
    return max(5, round(num_images / 1281))


class ExpertKNN:
    """Exact FAISS indexes, one for each expert or one for all; the ids in them are rows of the whole bank.

    Args:
        indexes: the indexes.
        k: rank of the neighbour whose distance is the score.
        place: device that searches if the banks fit into its memory; None takes this machine's.
    """

    def __init__(self, indexes: Sequence[faiss.Index], k: int, place: torch.device | None = None):
        self.indexes = indexes
        self.k = k
        self.place = place or device()

    @classmethod
    def build(cls, embeddings_ND: np.ndarray, experts_N: np.ndarray | None, k: int) -> Self:
        """Index N training embeddings by expert.

        Args:
            embeddings_ND: embeddings by the expert of their class, of any precision; normalised here, block by block.
            experts_N: expert of each embedding, 0 ≤ e < E = max + 1; None makes one bank for all experts.
            k: rank of the neighbour whose distance is the score; an expert with fewer embeddings uses its farthest.

        Raises:
            MofeError: k < 1, there is no embedding, one is zero or not finite, an expert has none, or the lengths of
                ``embeddings_ND`` and ``experts_N`` differ.
        """
        k = whole("knn_k", k, 1)
        embeddings_ND = _embeddings(embeddings_ND)
        count, width = embeddings_ND.shape
        if not count or not width:
            raise MofeError(f"embeddings of shape {(count, width)} make no bank: there must be at least one")
        experts_N = np.zeros(count, int) if experts_N is None else _experts(experts_N, count)
        indexes = []
        for expert in range(int(experts_N.max(initial=-1)) + 1):
            own = np.flatnonzero(experts_N == expert)
            if not own.size:
                raise MofeError(f"expert {expert} has no training embedding to compare with")
            index = faiss.IndexIDMap(_empty(width, half=4 * count * width > LARGEST))
            for start in range(0, len(own), BLOCK):
                rows = own[start : start + BLOCK]
                index.add_with_ids(_normalise(embeddings_ND[rows], rows), rows)
            indexes.append(index)
        return cls(indexes, k)

    def score(self, embeddings_BD: np.ndarray, experts_B: np.ndarray) -> np.ndarray:
        """Minus the distance to the k-th nearest embedding of the expert's bank, float32 (B,), in [−2, 0]."""
        return self.search(embeddings_BD, experts_B, 0)[0]

    def search(
        self, embeddings_BD: np.ndarray, experts_B: np.ndarray, n: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The scores (B,), and distances and bank rows (B, n) of the n nearest in each image's expert, nearest first.

        If a bank has fewer than n embeddings, the remaining distances are inf and the rows −1.

        Raises:
            MofeError: n < 0, an embedding has another width, is zero or not finite, or an expert has no bank.
        """
        n = whole("neighbours", n)
        if n > MOST_NEIGHBOURS:
            raise MofeError(f"neighbours = {shown(n)} must be at most {MOST_NEIGHBOURS}")
        embeddings_BD = _embeddings(embeddings_BD)
        if embeddings_BD.shape[1] != self.indexes[0].d:
            raise MofeError(f"embeddings of shape {embeddings_BD.shape} are not (B, {self.indexes[0].d})")
        experts_B = _experts(experts_B, len(embeddings_BD))
        bank_B = torch.as_tensor(experts_B if len(self.indexes) > 1 else np.zeros(len(embeddings_BD), int))
        if len(bank_B) and bank_B.max() >= len(self.indexes):
            raise MofeError(f"there is no bank of expert {bank_B.max()}: it has no training image")
        bank_B, order_B = bank_B.sort(stable=True)
        z_BD = torch.from_numpy(_normalise(embeddings_BD))[order_B].to(self._banks[0][0].device)
        k = min(self.k, max(index.ntotal for index in self.indexes))
        squared_BN, row_BN = self._nearest(z_BD, bank_B, max(k, n))
        of_k_BK = squared_BN if n <= k else squared_BN.topk(k, largest=False, sorted=False).values
        score_B = -of_k_BK.where(of_k_BK < torch.inf, 0).amax(dim=1).sqrt()
        squared_Bn, place_Bn = squared_BN.topk(n, largest=False)
        back_B = order_B.argsort()
        found = score_B, squared_Bn.sqrt(), row_BN.gather(1, place_Bn)
        scores_B, distances_Bn, rows_Bn = (part.cpu()[back_B].numpy() for part in found)
        return scores_B, distances_Bn, rows_Bn

    def _nearest(self, z_BD: Tensor, bank_B: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Squared distances and bank rows (B, n) of the n nearest, unordered; inf and −1 past a bank's end."""
        squared_Bn, row_Bn = self._selected(z_BD, bank_B, n)
        close_B = squared_Bn.amax(dim=1) < CLOSE  # false where the whole bank was selected
        if close_B.any():
            exact_Bn, row_Bn[close_B] = self._selected(z_BD[close_B].double(), bank_B[close_B.cpu()], n)
            squared_Bn[close_B] = exact_Bn.float()
        query_P, place_P = (squared_Bn < CLOSE).nonzero(as_tuple=True)
        if len(query_P):
            row_P = row_Bn[query_P, place_P]
            squared_Bn[query_P, place_P] = self._apart(z_BD[query_P], bank_B[query_P.cpu()], row_P)
        return squared_Bn, row_Bn

    def _selected(self, z_BD: Tensor, bank_B: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """As :meth:`_nearest`, in the precision of the queries."""
        by_bank = z_BD.split(bank_B.bincount(minlength=len(self.indexes)).tolist())
        parts = [
            _nearest_of(bank_ND, ids_N, some_BD, n)
            for (bank_ND, ids_N), of_bank_BD in zip(self._banks, by_bank, strict=True)
            for some_BD in of_bank_BD.split(QUERIES)
        ]
        squared_Bn, row_Bn = (torch.cat(part) for part in zip(*parts, strict=True))
        return squared_Bn, row_Bn

    def _apart(self, z_PD: Tensor, bank_P: Tensor, row_P: Tensor) -> Tensor:
        """Squared distance of each query to one row of its bank, computed from their difference."""
        squared_P = z_PD.new_empty(len(z_PD))
        for number, (bank_ND, ids_N) in enumerate(self._banks):
            for some in (bank_P == number).nonzero()[:, 0].to(z_PD.device).split(BLOCK):
                at = torch.searchsorted(ids_N, row_P[some])  # rows were added in their order
                squared_P[some] = (z_PD[some] - bank_ND[at]).square().sum(dim=1)
        return squared_P

    @cached_property
    def _banks(self) -> list[tuple[Tensor, Tensor]]:
        """Embeddings (N, D) and ids (N,) of each index, in FAISS's own memory or in a copy on the GPU."""
        banks = [_view(index) for index in self.indexes]
        size = sum(bank_ND.nbytes for bank_ND, _ in banks)
        if self.place.type == "cuda" and size < torch.cuda.mem_get_info(self.place)[0] / 2:
            return [(bank_ND.to(self.place), ids_N.to(self.place)) for bank_ND, ids_N in banks]
        return banks

    def save(self, folder: str | Path) -> None:
        """Write ``expert-NNN.faiss`` for each expert into ``folder``, and ``knn.json`` last.

        Raises:
            MofeError: the folder cannot be made or written.
        """
        folder = local_folder("folder", folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for expert, index in enumerate(self.indexes):
                faiss.write_index(index, str(folder / f"expert-{expert:03d}.faiss"))
            (folder / "knn.json").write_text(json.dumps({"k": self.k, "experts": len(self.indexes)}))
        except (OSError, RuntimeError) as error:  # FAISS raises the latter
            raise MofeError(f"the KNN indexes cannot be written to {folder}: {in_one_line(error)}") from error

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the files that :meth:`save` wrote; indexes are memory-mapped.

        Raises:
            MofeError: a file is missing or damaged.
        """
        folder = local_folder("folder", folder)
        try:
            info = json.loads((folder / "knn.json").read_text("utf-8"))
            files = [folder / f"expert-{expert:03d}.faiss" for expert in range(info["experts"])]
            indexes = [faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC) for file in files]
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise MofeError(f"{folder} holds no usable KNN indexes: {in_one_line(error)}") from error
        return cls(indexes, info["k"])


def _embeddings(embeddings_BD: np.ndarray) -> np.ndarray:
    """A matrix of floats; whole numbers are converted, and a memory map stays one."""
    embeddings_BD = array("embeddings", embeddings_BD, 2)
    return embeddings_BD if embeddings_BD.dtype.kind == "f" else embeddings_BD.astype(np.float32)


def _experts(experts_B: np.ndarray, count: int) -> np.ndarray:
    experts_B = array("experts", experts_B)
    if experts_B.shape != (count,) or experts_B.min(initial=0) < 0 or (experts_B != experts_B.astype(int)).any():
        raise MofeError(f"{count} embeddings need {count} experts, numbered from 0")
    return experts_B.astype(int)


def _empty(width: int, half: bool) -> faiss.Index:
    if not half:
        return faiss.IndexFlatL2(width)
    return faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)


def _view(index: Any) -> tuple[Tensor, Tensor]:
    """Embeddings (N, D) and ids (N,) of an index, without a copy."""
    held: Any = faiss.downcast_index(index.index)
    stored = np.float32 if isinstance(held, faiss.IndexFlat) else np.float16
    codes = faiss.rev_swig_ptr(held.codes.data(), held.codes.size())
    bank_ND = torch.from_numpy(codes.view(stored).reshape(held.ntotal, held.d))
    return bank_ND, torch.from_numpy(faiss.rev_swig_ptr(index.id_map.data(), held.ntotal))


def _nearest_of(bank_ND: Tensor, ids_N: Tensor, z_BD: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Squared distances and ids (B, n) of the n nearest, unordered; inf and −1 past the end of the bank."""
    if not len(z_BD):
        return z_BD.new_empty(0, n), ids_N.new_empty(0, n)
    block = BLOCK if bank_ND.is_cpu or z_BD.dtype == torch.float64 else 16 * BLOCK
    closeness_Bn, at_Bn = _largest(_closeness(z_BD, bank_ND[:block]), n)
    for start in range(block, len(bank_ND), block):
        found_Bn, column_Bn = _largest(_closeness(z_BD, bank_ND[start : start + block]), n)
        closeness_Bn, at_Bn = torch.hstack([closeness_Bn, found_Bn]), torch.hstack([at_Bn, column_Bn + start])
        closeness_Bn, column_Bn = _largest(closeness_Bn, n)
        at_Bn = at_Bn.gather(1, column_Bn)
    squared_Bn, row_Bn = 4 - 2 * closeness_Bn, ids_N[at_Bn]
    if missing := n - row_Bn.shape[1]:
        return functional.pad(squared_Bn, (0, missing), value=torch.inf), functional.pad(row_Bn, (0, missing), value=-1)
    return squared_Bn, row_Bn


def _closeness(z_BD: Tensor, block_MD: Tensor) -> Tensor:
    """q · b − ½ |b|² + 3/2 for queries of length 1, (B, M): 2 minus half the squared distance, so never below 0.

    It has the queries' precision. Embeddings are taken to be of length 1 where both are float32.
    """
    if block_MD.dtype == z_BD.dtype:
        return _product(z_BD, block_MD, block_MD.new_ones(len(block_MD)))
    parts = []
    for tile_TD in block_MD.split(TILE if block_MD.is_cpu else len(block_MD)):
        tile_TD = tile_TD.to(z_BD.dtype)
        half_T = torch.linalg.vector_norm(tile_TD, dim=1).square_().div_(2)  # not exactly ½ after rounding
        parts.append(_product(z_BD, tile_TD, 1.5 - half_T))
    return torch.hstack(parts)


def _product(z_BD: Tensor, block_MD: Tensor, add_M: Tensor) -> Tensor:
    """z · bᵀ + a, (B, M)."""
    if z_BD.is_cpu and z_BD.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        # oneDNN's product, as torch.compile calls it, is the fastest where one side is small
        return torch.ops.mkldnn._linear_pointwise(z_BD, block_MD, add_M, "none", [], "")
    return functional.linear(z_BD, block_MD, add_M)


def _largest(x_BM: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Values and columns (B, n) of the n largest of numbers ≥ 0, unordered; all if there are fewer.

    On a CPU the numbers' bits are sorted as integers: the order is the same, and without the handling of NaN it takes
    three quarters of the time. The n largest lie in the n groups of G columns with the largest maxima. So M / G + n G
    of M columns are sorted partially; G = √(M / n) makes that the fewest. On a GPU its own top-k is faster.
    """
    n = min(n, x_BM.shape[1])
    if x_BM.is_cuda:
        return x_BM.topk(n, sorted=False)
    bits = torch.int32 if x_BM.dtype == torch.float32 else torch.int64
    bits_BM, size = x_BM.view(bits), isqrt(x_BM.shape[1] // max(n, 1))
    if size < 2:
        best = bits_BM.topk(n, sorted=False)
        return best.values.view(x_BM.dtype), best.indices
    count = x_BM.shape[1] // size
    groups_BGM = bits_BM[:, : size * count].unflatten(1, (size, count))
    column_Bn = groups_BGM.amax(dim=1).topk(n, sorted=False).indices
    first_G = torch.arange(0, size * count, count)
    in_groups_BP = (column_Bn[:, None] + first_G[:, None]).flatten(1)
    in_none_BR = torch.arange(size * count, x_BM.shape[1]).expand(len(x_BM), -1)
    column_BP = torch.hstack([in_groups_BP, in_none_BR])
    best = bits_BM.gather(1, column_BP).topk(n, sorted=False)
    return best.values.view(x_BM.dtype), column_BP.gather(1, best.indices)


def _normalise(embeddings_BD: np.ndarray, numbers_B: np.ndarray | None = None) -> np.ndarray:
    """Scale embeddings to length 1, float32; an error names them by ``numbers_B``."""
    embeddings_BD = np.asarray(embeddings_BD, np.float32)
    norm_B = np.linalg.norm(embeddings_BD, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norm_B[:, 0]) | (norm_B[:, 0] == 0))
    if bad.size:
        number = bad[0] if numbers_B is None else numbers_B[bad[0]]
        raise MofeError(f"embedding {number} is not finite or is zero: it has no direction")
    return np.ascontiguousarray(embeddings_BD / norm_B)
