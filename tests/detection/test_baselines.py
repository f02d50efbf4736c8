"""Every detector in every feature space, on digits: fitted, stored, asked again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from mofe.detection.baselines import Baselines, Embedded, KnownImages
from mofe.detection.linear_probe import linear_probe
from mofe.detection.metrics import ood_metrics
from mofe.detection.seen import Seen
from mofe.detection.spaces import Head
from mofe.detection.suite import FITTED, UNFITTED, Suite

Z, Y = load_digits(return_X_y=True)
Z = Z.astype(np.float32) / 16 + np.random.default_rng(0).normal(0, 0.25, Z.shape).astype(np.float32)
KNOWN, UNKNOWN = Y < 6, Y >= 6
TRAIN = np.flatnonzero(KNOWN)[:600]
HELD = np.flatnonzero(KNOWN)[600:800]
TEST = np.flatnonzero(KNOWN)[800:]
EXPERT_OF = np.array([0, 1, 0, 1, 1, 0])


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    weight_CD, bias_C = linear_probe(Z[TRAIN], Y[TRAIN])
    heads = []
    for mine in (EXPERT_OF == 0, EXPERT_OF == 1):
        others_D, others = weight_CD[~mine].mean(dim=0), bias_C[~mine].mean() + 1
        heads.append(Head(torch.vstack([weight_CD[mine], others_D]), torch.hstack([bias_C[mine], others])))
    space = Embedded(Z[TRAIN], Z[HELD])
    images = KnownImages(space, space, Y[TRAIN], Y[HELD], EXPERT_OF[Y[HELD]], EXPERT_OF)
    fitted, refused = Baselines.fit(images, heads, k=5)
    assert refused == {}
    return fitted


def look(rows: np.ndarray) -> Seen:
    """Known images of the digits, as models see them that change nothing."""
    z_BD = torch.from_numpy(Z[rows])
    return Seen(z_BD, torch.zeros(len(z_BD), 6), EXPERT_OF[Y[rows] % 6], pretrained_BD=z_BD)


def test_every_detector_tells_digits_from_digits(baselines: Baselines) -> None:
    names = (*UNFITTED, *FITTED, "knn")
    ours, theirs = baselines.pretrained.score(look(TEST)), baselines.pretrained.score(look(np.flatnonzero(UNKNOWN)))
    assert set(ours) == {f"pretrained.{name}" for name in names} == set(baselines.pretrained.names)
    aurocs = {name: ood_metrics(ours[name], theirs[name]).auroc for name in ours}
    assert min(aurocs.values()) > 0.55, aurocs
    assert all(
        values.dtype == np.float64 and np.isfinite(values).all() for values in (*ours.values(), *theirs.values())
    )


def test_an_image_is_scored_by_its_expert(baselines: Baselines) -> None:
    z_BD, experts_B = torch.from_numpy(Z[TEST]), EXPERT_OF[Y[TEST]]
    scores = baselines.expert.score(look(TEST))
    assert tuple(scores) == baselines.expert.names
    for expert, suite in enumerate(baselines.expert.suites):
        alone = suite.score(z_BD[experts_B == expert])
        for name in suite.names:
            np.testing.assert_allclose(scores[f"expert.{name}"][experts_B == expert], alone[name], rtol=1e-5, atol=1e-6)


def test_mos_asks_every_head_about_others(baselines: Baselines) -> None:
    z_BD = torch.from_numpy(Z[TEST])
    doubts = [(z_BD @ head.weight_QD.T + head.bias_Q).softmax(dim=1)[:, -1] for head in baselines.tuned.heads]
    scores = baselines.tuned.score(look(TEST))
    assert tuple(scores) == baselines.tuned.names
    np.testing.assert_allclose(scores["tuned.mos"], -torch.stack(doubts).amin(dim=0), atol=1e-6)


def test_it_comes_back_as_it_was(baselines: Baselines, tmp_path: Path) -> None:
    baselines.save(tmp_path / "here")
    again = Baselines.load(tmp_path / "here")
    before, after = baselines.score(look(TEST)), again.score(look(TEST))
    assert list(before) == list(after) == list(again.names)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


def test_only_the_spaces_of_the_wanted_scores_are_asked(baselines: Baselines) -> None:
    assert baselines.spaces_of(["tuned.vim"]) == (baselines.tuned,)
    assert baselines.spaces_of(["expert.vim", "pretrained.knn"]) == (baselines.pretrained, baselines.expert)
    assert [space.reads_pretrained for space in baselines.spaces] == [True, False, False]


def test_what_cannot_be_fitted_is_told(baselines: Baselines) -> None:
    one = np.flatnonzero(Y[TRAIN] == 0)
    z_ND, zeros = torch.from_numpy(Z[TRAIN][one]), torch.zeros(len(one), dtype=torch.long)
    labels = torch.arange(len(one)) % 2
    all_right = Suite.fit(z_ND, labels, z_ND[:1], zeros[:1], torch.zeros(2, 64), torch.tensor([1.0, 0.0]))[1]
    assert "no best temperature" in all_right["temperature"]
    suite, refused = Suite.fit(z_ND, zeros, z_ND[:0], zeros[:0], torch.ones(1, 64), torch.zeros(1))
    assert set(refused) == {"temperature", "fdbd", "relative_mahalanobis"}
    assert "two classes or more" in refused["fdbd"]
    assert set(suite.score(z_ND)) == set(suite.names) == {*UNFITTED, *FITTED} - set(refused)


@pytest.mark.parametrize("classes", [2, 6])
def test_the_probe_is_scikit_learns(classes: int) -> None:
    rows = TRAIN[Y[TRAIN] < classes]
    weight_CD, bias_C = linear_probe(Z[rows], Y[rows])
    mean, spread = Z[rows].mean(axis=0), Z[rows].std(axis=0)
    reference = LogisticRegression(max_iter=200).fit((Z[rows] - mean) / spread, Y[rows])
    ours = (torch.from_numpy(Z[TEST]) @ weight_CD.T + bias_C).softmax(dim=1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba((Z[TEST] - mean) / spread), atol=2e-4)
