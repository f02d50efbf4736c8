"""KNN inside an expert's subspace against brute force in float64 and pytorch-ood."""

from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from pytorch_ood.detector import KNN
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from mofe.detection import ExpertKNN
from mofe.detection import knn as knn_module
from mofe.detection.knn import _largest, default_k
from mofe.errors import MofeError

RNG = np.random.default_rng(0)
BANK, EXPERTS = RNG.normal(size=(600, 16)).astype(np.float32) + 0.5, RNG.integers(0, 3, 600)
QUERIES, ROUTES = RNG.normal(size=(90, 16)).astype(np.float32) + 0.5, RNG.integers(0, 3, 90)


def brute_force(query: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Sorted distances of one query, L2-normalised, in float64."""
    q, b = query.astype(np.float64), bank.astype(np.float64)
    return np.sort(np.linalg.norm(q / np.linalg.norm(q) - b / np.linalg.norm(b, axis=1, keepdims=True), axis=1))


@pytest.mark.parametrize("k", [1, 7, 100])
@pytest.mark.parametrize(("block", "queries"), [(64, 7), (16_384, 256)])
def test_scores_are_minus_the_kth_distance_in_the_experts_own_bank(
    k: int, block: int, queries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mofe.detection.knn.BLOCK", block)
    monkeypatch.setattr("mofe.detection.knn.QUERIES", queries)
    scores = ExpertKNN.build(BANK, EXPERTS, k).score(QUERIES, ROUTES)
    expected = [-brute_force(q, BANK[e == EXPERTS])[k - 1] for q, e in zip(QUERIES, ROUTES, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_with_one_expert_it_is_pytorch_oods() -> None:
    def unit(x: np.ndarray) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.from_numpy(x), dim=1)

    theirs = KNN(None, k=10)
    theirs.fit_features(unit(BANK), torch.zeros(600, dtype=torch.int64))
    ours = ExpertKNN.build(BANK, np.zeros(600, int), 10).score(QUERIES, np.zeros(90, int))
    np.testing.assert_allclose(ours, -theirs.predict_features(unit(QUERIES)).numpy(), atol=1e-5)


def test_neighbours_are_rows_of_the_bank() -> None:
    knn = ExpertKNN.build(BANK, EXPERTS, 3)
    _, distances, rows = knn.search(QUERIES, ROUTES, 5)
    assert (EXPERTS[rows] == ROUTES[:, None]).all()
    for q, d, r in zip(QUERIES, distances, rows, strict=True):
        for one, row in zip(d, r, strict=True):
            assert one == pytest.approx(brute_force(q, BANK[row : row + 1])[0], abs=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_same_image_again_is_at_no_distance(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    if dtype == np.float16:
        monkeypatch.setattr("mofe.detection.knn.LARGEST", 1000)
    rng = np.random.default_rng(5)
    bank = rng.normal(size=(300, 768)).astype(np.float32)
    scores, distances, rows = ExpertKNN.build(bank, None, 1).search(bank, np.zeros(300, int), 1)
    assert (rows[:, 0] == np.arange(300)).all()
    assert distances.max() < (1e-6 if dtype == np.float32 else 5e-4)
    np.testing.assert_array_equal(scores, -distances[:, 0])


@pytest.mark.parametrize(("columns", "n"), [(1, 1), (5, 5), (37, 1), (1000, 3), (1001, 10), (1002, 250)])
def test_the_largest_are_those_of_a_sort(columns: int, n: int) -> None:
    values = 2 * torch.rand(6, columns, generator=torch.Generator().manual_seed(columns))
    largest, column = _largest(values, n)
    torch.testing.assert_close(largest.sort(descending=True).values, values.sort(descending=True).values[:, :n])
    torch.testing.assert_close(values.gather(1, column), largest)


def test_scaling_and_shuffling_change_nothing() -> None:
    before = ExpertKNN.build(BANK, EXPERTS, 5).score(QUERIES, ROUTES)
    order = RNG.permutation(600)
    after = ExpertKNN.build(7 * BANK[order], EXPERTS[order], 5).score(0.1 * QUERIES, ROUTES)
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("queries", [10, 90])
def test_a_large_bank_is_held_in_half_the_memory_and_answers_alike(
    queries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ExpertKNN.build(BANK, EXPERTS, 5)
    monkeypatch.setattr("mofe.detection.knn.LARGEST", 1000)
    monkeypatch.setattr("mofe.detection.knn.BLOCK", 64)
    monkeypatch.setattr("mofe.detection.knn.TILE", 48)
    knn = ExpertKNN.build(BANK, EXPERTS, 5)
    ask, routes = QUERIES[:queries], np.zeros(queries, int)  # one expert is asked, by few or by many
    np.testing.assert_allclose(knn.score(ask, routes), exact.score(ask, routes), atol=3e-4)
    agree = knn.search(ask, routes, 20)[2] == exact.search(ask, routes, 20)[2]
    assert agree.mean() > 0.99
    exact.save(tmp_path / "exact")
    knn.save(tmp_path / "half")
    sizes = [(tmp_path / name / "expert-000.faiss").stat().st_size for name in ("exact", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = ExpertKNN.load(tmp_path / "half")
    np.testing.assert_array_equal(again.score(ask, routes), knn.score(ask, routes))


def test_a_saved_index_is_mapped_not_read(tmp_path: Path) -> None:
    ExpertKNN.build(np.ones((40_000, 256), np.float32), None, 1).save(tmp_path)
    before = resident()
    knn = ExpertKNN.load(tmp_path)
    assert resident() - before < 20e6 < (tmp_path / "expert-000.faiss").stat().st_size
    assert knn.score(np.ones((1, 256)), np.zeros(1, int))[0] == pytest.approx(0, abs=1e-3)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_fewer_images_than_k_take_the_farthest() -> None:
    knn = ExpertKNN.build(BANK[:3], np.zeros(3, int), 10)
    np.testing.assert_allclose(
        knn.score(QUERIES[:1], np.zeros(1, int)), -brute_force(QUERIES[0], BANK[:3])[-1], atol=1e-5
    )
    assert knn.search(QUERIES[:1], np.zeros(1, int), 5)[2][0, 3:].tolist() == [-1, -1]


def test_only_the_banks_that_are_asked_are_looked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    knn, compared = ExpertKNN.build(BANK, EXPERTS, 3), []
    real = knn_module._closeness
    monkeypatch.setattr(knn_module, "_closeness", lambda z, block: compared.append(len(z)) or real(z, block))
    knn.score(QUERIES[:2], np.array([1, 1]))
    assert compared == [2]
    with pytest.raises(MofeError, match="no bank of expert 3"):
        knn.score(QUERIES[:1], np.array([3]))
    assert [found.shape for found in knn.search(QUERIES[:0], ROUTES[:0], 4)] == [(0,), (0, 4), (0, 4)]


def test_what_is_saved_answers_alike(tmp_path: Path) -> None:
    knn = ExpertKNN.build(BANK, EXPERTS, 4)
    knn.save(tmp_path)
    again = ExpertKNN.load(tmp_path)
    np.testing.assert_array_equal(again.score(QUERIES, ROUTES), knn.score(QUERIES, ROUTES))
    np.testing.assert_array_equal(again.search(QUERIES, ROUTES, 3)[2], knn.search(QUERIES, ROUTES, 3)[2])
    (tmp_path / "expert-001.faiss").unlink()
    with pytest.raises(MofeError, match="no usable KNN indexes"):
        ExpertKNN.load(tmp_path)


@pytest.mark.parametrize(
    ("bank", "experts", "k", "message"),
    [
        (BANK, EXPERTS, 0, "knn_k = 0"),
        (BANK, np.where(EXPERTS == 1, 0, EXPERTS), 1, "expert 1 has no training embedding"),
        (np.where(np.arange(600)[:, None] == 5, 0, BANK), EXPERTS, 1, "embedding 5 is"),
        (np.where(np.arange(600)[:, None] == 9, np.nan, BANK), EXPERTS, 1, "embedding 9 is"),
        (BANK, EXPERTS[:100], 1, "600 embeddings need 600 experts"),
        (BANK, EXPERTS - 1, 1, "numbered from 0"),
    ],
)
def test_what_cannot_be_indexed(bank: np.ndarray, experts: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(MofeError, match=message):
        ExpertKNN.build(bank, experts, k)


@pytest.mark.parametrize(
    ("shape", "experts", "n", "message"),
    [
        ((4, 3), [0, 0], 0, "4 embeddings need 4 experts"),
        ((1, 3), [-1], 0, "numbered from 0"),
        ((1, 3), [7], 0, "no bank of expert 7"),
        ((2, 4), [0, 0], 0, r"shape \(2, 4\) are not \(B, 3\)"),
        ((2, 3), [0, 0], -1, "neighbours = -1 must be at least 0"),
    ],
)
def test_what_cannot_be_asked(shape: tuple[int, int], experts: list[int], n: int, message: str) -> None:
    knn = ExpertKNN.build(np.eye(3), np.array([0, 0, 1]), 1)
    with pytest.raises(MofeError, match=message):
        knn.search(np.ones(shape), np.array(experts), n)


def test_a_global_bank_looks_among_all_whatever_the_expert() -> None:
    rng = np.random.default_rng(4)
    bank, queries = rng.normal(size=(60, 8)), rng.normal(size=(9, 8))
    knn = ExpertKNN.build(bank, None, 4)
    distance = np.linalg.norm(
        (queries / np.linalg.norm(queries, axis=1, keepdims=True))[:, None]
        - (bank / np.linalg.norm(bank, axis=1, keepdims=True))[None],
        axis=2,
    )
    expected = -np.sort(distance, axis=1)[:, 3]
    np.testing.assert_allclose(knn.score(queries, rng.integers(0, 5, 9)), expected, atol=1e-5)


def test_k_is_a_thousand_of_imagenet_and_in_proportion_of_others() -> None:
    """1000 for its 1 281 167 images (Sun et al., 2022), and at least 5."""
    assert [default_k(n) for n in (1, 1281, 128_117, 640_584, 1_281_167)] == [5, 5, 100, 500, 1000]
    assert [default_k(n) for n in (6 * 1281, 6 * 1281 + 641, 6 * 1281 + 640)] == [6, 7, 6], "to the nearest"


def width_of_a_number(knn: ExpertKNN) -> int:
    """Bytes that the index of the first expert takes for one number."""
    return faiss.downcast_index(knn.indexes[0].index).code_size // 16


@pytest.mark.parametrize(("largest", "width"), [(4 * 600 * 16, 4), (4 * 600 * 16 - 1, 2)])
def test_a_bank_is_held_in_half_once_it_would_be_larger_than_allowed(
    largest: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mofe.detection.knn.LARGEST", largest)
    assert width_of_a_number(ExpertKNN.build(BANK, EXPERTS, 1)) == width


def test_a_gibibyte_is_what_is_allowed() -> None:
    assert knn_module.LARGEST == 2**30


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("angle", [1e-4, 1e-2, 0.03, 0.05, 0.5, 1.0])
def test_a_distance_however_small_has_its_digits(angle: float, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two vectors an angle θ apart are at a distance of 2 sin θ / 2. In float16 a number is rounded by up to 2⁻¹²."""
    if half:
        monkeypatch.setattr("mofe.detection.knn.LARGEST", 1)
    bank = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, -1.0]], np.float32)
    query = np.array([[np.cos(angle), np.sin(angle), 0.0]], np.float32)
    distance = 2 * np.sin(angle / 2)
    score = ExpertKNN.build(bank, None, 1).score(query, np.zeros(1, int))
    np.testing.assert_allclose(score, [-distance], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_as_many_neighbours_as_k_and_more_leave_the_score_the_kth(n: int) -> None:
    scores, distances, rows = ExpertKNN.build(BANK, EXPERTS, 3).search(QUERIES, ROUTES, n)
    for query, route, score, distance, row in zip(QUERIES, ROUTES, scores, distances, rows, strict=True):
        expected = brute_force(query, BANK[route == EXPERTS])
        assert score == pytest.approx(-expected[2], abs=1e-4)
        np.testing.assert_allclose(distance, expected[:n], atol=1e-4)
        assert len(set(row)) == n


def test_past_the_end_of_a_bank_there_is_nothing() -> None:
    scores, distances, rows = ExpertKNN.build(BANK[:3], None, 2).search(QUERIES[:2], np.zeros(2, int), 5)
    assert np.isinf(distances[:, 3:]).all()
    assert (rows[:, 3:] == -1).all()
    assert sorted(rows[0, :3]) == [0, 1, 2]
    expected = [brute_force(query, BANK[:3]) for query in QUERIES[:2]]
    np.testing.assert_allclose(distances[:, :3], expected, atol=1e-4)
    np.testing.assert_allclose(scores, [-found[1] for found in expected], atol=1e-4)


def test_a_query_without_a_direction_is_named() -> None:
    knn = ExpertKNN.build(BANK, EXPERTS, 1)
    for bad in (0.0, np.nan, np.inf):
        queries = QUERIES.copy()
        queries[4] = bad
        with pytest.raises(MofeError, match="embedding 4 is not finite or is zero"):
            knn.score(queries, ROUTES)


def test_the_row_of_the_bank_is_named_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mofe.detection.knn.BLOCK", 16)
    bank = BANK.copy()
    bank[[400, 500]] = 0
    with pytest.raises(MofeError, match=f"embedding {400 if EXPERTS[400] <= EXPERTS[500] else 500} is"):
        ExpertKNN.build(bank, EXPERTS, 1)


def test_an_expert_whose_last_images_come_first_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close neighbours are measured again by their row, in banks of some rows of the whole."""
    monkeypatch.setattr("mofe.detection.knn.BLOCK", 8)
    knn = ExpertKNN.build(BANK, EXPERTS, 1)
    scores, _, rows = knn.search(BANK * 2, EXPERTS, 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(600))
    np.testing.assert_allclose(scores, 0, atol=1e-6)


def test_it_searches_where_it_is_told() -> None:
    built = ExpertKNN.build(BANK, EXPERTS, 2)
    there = ExpertKNN(built.indexes, 2, torch.device("cpu"))
    assert there.place == torch.device("cpu")
    np.testing.assert_array_equal(there.score(QUERIES, ROUTES), built.score(QUERIES, ROUTES))


def test_it_is_saved_into_a_new_folder_and_over_an_old_one(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    ExpertKNN.build(BANK, EXPERTS, 9).save(folder)
    ExpertKNN.build(BANK[:30], None, 2).save(folder)
    again = ExpertKNN.load(str(folder))
    assert (again.k, len(again.indexes)) == (2, 1)
    assert (folder / "expert-000.faiss").exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [(None, "knn.json"), ("no JSON", "Expecting value"), ("{}", "experts"), ('{"k": 1, "experts": 9}', "")],
)
def test_a_folder_without_usable_indexes_is_named(content: str | None, cause: str, tmp_path: Path) -> None:
    if content is not None:
        ExpertKNN.build(BANK, EXPERTS, 9).save(tmp_path)
        (tmp_path / "knn.json").write_text(content)
    with pytest.raises(MofeError, match=rf"holds no usable KNN indexes: .*{cause}") as error:
        ExpertKNN.load(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("angle", [0.01, 1.6, 2.5, 3.1])
def test_the_only_image_may_be_on_the_other_side(angle: float, half: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if half:
        monkeypatch.setattr(knn_module, "LARGEST", 1)
    query = np.array([[np.cos(angle), np.sin(angle)]], np.float32)
    score = ExpertKNN.build(np.array([[2.0, 0.0]], np.float32), None, 1).score(query, np.zeros(1, int))
    np.testing.assert_allclose(score, [-2 * np.sin(angle / 2)], rtol=1e-5)


def test_of_few_and_near_images_the_farthest_is_taken() -> None:
    bank = np.array([[1.0, 0.1], [1.0, 0.2], [1.0, 0.0]], np.float32)
    score = ExpertKNN.build(bank, None, 9).score(np.array([[1.0, 0.0]]), np.zeros(1, int))
    assert score[0] == pytest.approx(-2 * np.sin(np.arctan(0.2) / 2), rel=1e-4)


@pytest.mark.parametrize("expert", [0, 1, 2])
def test_where_one_expert_alone_is_asked_the_rows_are_its_own(expert: int) -> None:
    knn, routes = ExpertKNN.build(BANK, EXPERTS, 3), np.full(90, expert)
    own = np.flatnonzero(expert == EXPERTS)
    _, _, rows = knn.search(QUERIES, routes, 2)
    for query, found in zip(QUERIES, rows, strict=True):
        cosine = BANK[own] @ query / np.linalg.norm(BANK[own], axis=1)
        assert set(found) == set(own[np.argsort(-cosine)[:2]])


def test_without_one_dnn_it_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    knn = ExpertKNN.build(BANK, EXPERTS, 4)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    expected = [-brute_force(q, BANK[e == EXPERTS])[3] for q, e in zip(QUERIES, ROUTES, strict=True)]
    np.testing.assert_allclose(knn.score(QUERIES, ROUTES), expected, atol=1e-4)


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def cone(count: int, width: int, spread: float, seed: int) -> np.ndarray:
    """Embeddings around one direction, at distances of 0.5 to 1.5 times the spread from it."""
    rng = np.random.default_rng((7, seed))
    off = rng.normal(size=(count, width)) * rng.uniform(0.5, 1.5, (count, 1)) / width**0.5
    return unit(np.eye(width)[0] + spread * off)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("width", [16, 64, 768])
@pytest.mark.parametrize("spread", [1e-4, 1e-3, 4e-3, 0.02, 0.05, 0.08, 0.3])
def test_it_is_float64s_search_however_near_the_neighbours(
    spread: float, width: int, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scikit-learn's in float64, on what the index holds; a distance of float32 vectors has digits down to 2⁻²⁴."""
    if half:
        monkeypatch.setattr(knn_module, "LARGEST", 1)
    bank, queries = cone(900, width, spread, 1), cone(80, width, spread, 2)
    knn = ExpertKNN.build(bank, None, 20)
    held = knn_module._view(knn.indexes[0])[0].double().numpy()
    expected, rows = NearestNeighbors(n_neighbors=20, algorithm="brute").fit(held).kneighbors(queries.astype(float))
    expected = np.linalg.norm(queries[:, None].astype(float) - held[rows], axis=2)  # theirs too is from a product
    scores, distances, found = knn.search(queries, np.zeros(80, int), 20)
    np.testing.assert_allclose(-scores, expected[:, -1], rtol=2e-4, atol=1e-7)
    np.testing.assert_allclose(distances, expected, rtol=2e-4, atol=1e-7)
    if not half:  # in float16 many are at the same distance
        assert spearmanr(-scores, expected[:, -1])[0] > 0.9999
        assert np.mean([np.isin(a, b).mean() for a, b in zip(found, rows, strict=True)]) > 0.999


def test_near_images_are_told_apart_as_well_as_in_float64() -> None:
    bank, known, unknown = cone(3000, 64, 1e-3, 1), cone(300, 64, 1e-3, 2), cone(300, 64, 1.3e-3, 3)
    queries, is_known = np.concatenate([known, unknown]), np.arange(600) < 300
    search = NearestNeighbors(n_neighbors=10, algorithm="brute").fit(bank.astype(float))
    expected = roc_auc_score(is_known, -search.kneighbors(queries.astype(float))[0][:, -1])
    score = ExpertKNN.build(bank, None, 10).score(queries, np.zeros(600, int))
    assert roc_auc_score(is_known, score) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("k", "distance"), [(1, 0), (5, 0), (6, 3e-3), (10, 3e-3), (11, 6e-3)])
def test_copies_of_an_image_take_one_rank_each(k: int, distance: float) -> None:
    """Five copies of each of nine vectors, 3 mrad apart: at a distance of 2 sin θ / 2 from the first."""
    angles = np.repeat(3e-3 * np.arange(9), 5)[np.random.default_rng(1).permutation(45)]
    bank = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    scores, distances, rows = ExpertKNN.build(bank, None, k).search(np.array([[2.0, 0.0]]), np.zeros(1, int), k)
    assert scores[0] == pytest.approx(-distance, rel=1e-4, abs=1e-12)
    np.testing.assert_allclose(np.sort(angles)[:k], angles[rows[0]], rtol=1e-4)
    assert len(set(rows[0])) == k
    assert distances[0, -1] == -scores[0]


def test_a_query_is_searched_again_in_its_own_experts_bank() -> None:
    """Only some queries of each expert are near; the others stay as they are."""
    near, far = cone(400, 64, 2e-3, 1), unit(RNG.normal(size=(400, 64)))
    bank, experts = np.concatenate([near, far, near[::-1], far]), np.repeat([0, 1], 800)
    queries = np.concatenate([cone(6, 64, 2e-3, 2), unit(RNG.normal(size=(6, 64)))])[[0, 6, 1, 7, 2, 8, 3, 9, 4, 10]]
    routes = np.arange(10) // 3 % 2
    scores, _, rows = ExpertKNN.build(bank, experts, 3).search(queries, routes, 3)
    assert (experts[rows] == routes[:, None]).all()
    expected = [-brute_force(q, bank[e == experts])[2] for q, e in zip(queries, routes, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=2e-4)


def test_an_expert_with_fewer_near_images_than_k_takes_its_farthest() -> None:
    """Beside a larger bank, so that k is more than one of them has."""
    angles = np.array([0.0, 0.3, *np.linspace(1, 2, 10)])
    bank_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    knn = ExpertKNN.build(bank_ND, np.repeat([0, 1], [2, 10]), 5)
    (score,) = knn.score(bank_ND[:1], np.array([0]))
    assert score == pytest.approx(-2 * np.sin(0.3 / 2), abs=1e-6)


def test_whole_numbers_are_embeddings_too() -> None:
    whole_ND = np.array([[3, 4], [-5, 12], [8, 15]])
    queries_BD, experts_B = np.array([[4, 3], [1, 0]]), np.zeros(2, int)
    found = ExpertKNN.build(whole_ND, None, 2).score(queries_BD, experts_B)
    floats = ExpertKNN.build(whole_ND.astype(float), None, 2).score(queries_BD.astype(float), experts_B)
    np.testing.assert_array_equal(found, floats)


def test_an_argument_of_another_kind_is_named(tmp_path: Path) -> None:
    knn = ExpertKNN.build(np.eye(3), None, 1)
    for call, message in (
        (lambda: knn.save(3), "folder must be a path"),  # type: ignore[arg-type]
        (lambda: ExpertKNN.load(3), "folder must be a path"),  # type: ignore[arg-type]
        (lambda: knn.score(np.zeros(3), np.zeros(3, int)), r"embeddings must have 2 dimensions, not the shape \(3,\)"),
        (lambda: knn.score("ab", np.zeros(1, int)), "embeddings must be an array"),  # type: ignore[arg-type]
        (lambda: knn.score(np.eye(3), "a"), "experts must be an array"),  # type: ignore[arg-type]
        (lambda: knn.score(np.eye(3), np.array([0, 0.5, 0])), "3 embeddings need 3 experts"),
    ):
        with pytest.raises(MofeError, match=message):
            call()
