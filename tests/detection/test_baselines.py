"""Every detector in every feature space, on digits: fitted, stored, asked again."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import normalize

from mofe.detection.baselines import TENSORS, Baselines, Embedded, KnownImages
from mofe.detection.linear_probe import linear_probe
from mofe.detection.metrics import ood_metrics
from mofe.detection.seen import Seen
from mofe.detection.spaces import Head
from mofe.detection.suite import FITTED, UNFITTED, Suite
from mofe.detection.texts import Texts
from mofe.errors import MofeError

Z, Y = load_digits(return_X_y=True)
Z = (Z / 16 + np.random.default_rng(0).normal(0, 0.25, Z.shape)).astype(np.float16).astype(np.float32)
TUNED = np.tanh(Z @ np.random.default_rng(1).normal(0, 0.3, (64, 48))).astype(np.float32)
KNOWN, UNKNOWN = Y < 6, Y >= 6
TRAIN = np.flatnonzero(KNOWN)[:600]
HELD = np.flatnonzero(KNOWN)[600:800]
TEST = np.flatnonzero(KNOWN)[800:]
EXPERT_OF = np.array([0, 1, 0, 1, 1, 0])
OWN = [np.array([0, 2, 5]), np.array([1, 3, 4])]
HELD_ROUTES = np.where(np.arange(200) % 9 == 0, 1 - EXPERT_OF[Y[HELD]], EXPERT_OF[Y[HELD]])
"""Every ninth of the held-out images is sent to the wrong expert."""
IMAGES = KnownImages(
    Embedded(Z[TRAIN], Z[HELD]), Embedded(TUNED[TRAIN], TUNED[HELD]), Y[TRAIN], Y[HELD], HELD_ROUTES, EXPERT_OF
)


def heads() -> list[Head]:
    """The probe's rows of each expert's classes, and "others" in the middle of the rest."""
    weight_CD, bias_C = linear_probe(TUNED[TRAIN], Y[TRAIN])
    found = []
    for own, rest in (OWN, OWN[::-1]):
        others_D, others = weight_CD[rest].mean(dim=0), bias_C[rest].mean() + 1
        found.append(Head(torch.vstack([weight_CD[own], others_D]), torch.hstack([bias_C[own], others])))
    return found


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    fitted, refused = Baselines.fit(IMAGES, heads(), k=5)
    assert refused == {}
    return fitted


def look(rows: np.ndarray, experts_B: np.ndarray | None = None) -> Seen:
    """Images of the digits, as the two models see them; routed to the experts of their classes, if to no others."""
    experts_B = EXPERT_OF[Y[rows] % 6] if experts_B is None else experts_B
    pretrained_BD, local_B = torch.from_numpy(Z[rows]), torch.zeros(len(rows))
    return Seen(torch.from_numpy(TUNED[rows]), torch.zeros(len(rows), 6), experts_B, pretrained_BD, local_B)


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
    z_BD, experts_B = torch.from_numpy(TUNED[TEST]), EXPERT_OF[Y[TEST]]
    scores = baselines.expert.score(look(TEST))
    assert tuple(scores) == baselines.expert.names
    for expert, suite in enumerate(baselines.expert.suites):
        alone = suite.score(z_BD[experts_B == expert])
        for name in suite.names:
            np.testing.assert_allclose(scores[f"expert.{name}"][experts_B == expert], alone[name], rtol=1e-5, atol=1e-6)


def test_it_comes_back_as_it_was(baselines: Baselines, tmp_path: Path) -> None:
    baselines.save(tmp_path / "here")
    again = Baselines.load(tmp_path / "here")
    before, after = baselines.score(look(TEST)), again.score(look(TEST))
    assert again.names == baselines.names
    assert again.text is None
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


def kth_distance(bank: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Minus the distance to the k-th nearest on the unit sphere, by sorting all."""
    bank, queries = (x.astype(float) / np.linalg.norm(x.astype(float), axis=1, keepdims=True) for x in (bank, queries))
    return -np.sort(np.linalg.norm(queries[:, None] - bank[None], axis=2), axis=1)[:, k - 1]


def nearest_class(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    train, test = train.astype(float), test.astype(float)
    means = {c: train[labels == c].mean(axis=0) for c in np.unique(labels)}
    covariance = EmpiricalCovariance(assume_centered=True).fit(train - np.stack([means[c] for c in labels]))
    return -np.min([covariance.mahalanobis(test - mean) for mean in means.values()], axis=0)


def msp_of(z: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return softmax(z.astype(float) @ weight.T + bias, axis=1).max(axis=1)


def test_each_space_is_its_own(baselines: Baselines) -> None:
    """A probe's head, the neighbours and a Gaussian, of the pre-trained backbone and of the fine-tuned model."""
    test = TEST[:40]
    found = baselines.pretrained.score(look(test)) | baselines.tuned.score(look(test))
    for name, features in (("pretrained", Z), ("tuned", TUNED)):
        assert found[f"{name}.knn"].dtype == np.float64
        np.testing.assert_allclose(found[f"{name}.knn"], kth_distance(features[TRAIN], features[test], 5), atol=1e-5)
        expected = nearest_class(features[TRAIN], Y[TRAIN], features[test])
        np.testing.assert_allclose(found[f"{name}.mahalanobis"], expected, rtol=1e-5)
        weight, bias = (x.numpy() for x in linear_probe(features[TRAIN], Y[TRAIN]))
        np.testing.assert_allclose(found[f"{name}.msp"], msp_of(features[test], weight, bias), rtol=1e-4)


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x))


@pytest.mark.parametrize("expert", [0, 1])
def test_an_expert_knows_its_own_classes_alone(expert: int, baselines: Baselines) -> None:
    """Its temperature is fitted on held-out images of its classes that the router sends to it, without "others"."""
    weight, bias = (x[:3].double().numpy() for x in heads()[expert])
    found = baselines.expert.score(look(TEST, np.full(len(TEST), expert)))
    np.testing.assert_allclose(found["expert.msp"], msp_of(TUNED[TEST], weight, bias), rtol=1e-4)
    mine = np.isin(Y[TRAIN], OWN[expert])
    expected = nearest_class(TUNED[TRAIN][mine], Y[TRAIN][mine], TUNED[TEST])
    np.testing.assert_allclose(found["expert.mahalanobis"], expected, rtol=1e-4)
    held = np.isin(Y[HELD], OWN[expert]) & np.isin(HELD_ROUTES, expert)
    logits, labels = TUNED[HELD][held].astype(float) @ weight.T + bias, np.searchsorted(OWN[expert], Y[HELD][held])
    scaled = msp_of(TUNED[TEST], *(x / temperature_of(logits, labels) for x in (weight, bias)))
    np.testing.assert_allclose(found["expert.temperature"], scaled, rtol=1e-3)


def test_an_embedding_of_the_pretrained_backbone_is_rounded_as_the_stored_ones_are(baselines: Baselines) -> None:
    z_BD = torch.from_numpy(Z[TEST]) + 1e-4
    found, rounded = (
        baselines.pretrained.score(look(TEST)._replace(pretrained_BD=z_BD)) for z_BD in (z_BD, z_BD.half().float())
    )
    for name, values in rounded.items():
        np.testing.assert_array_equal(found[name], values)


def test_names_are_those_of_the_scores_in_their_order(baselines: Baselines) -> None:
    everything = (*UNFITTED, *FITTED)
    pretrained = ["pretrained.knn", *(f"pretrained.{name}" for name in everything)]
    tuned = ["tuned.knn", *(f"tuned.{name}" for name in everything)]
    expert = [f"expert.{name}" for name in everything]
    seen = look(np.arange(3), np.array([0, 1, 0]))
    spaces = (baselines.pretrained, baselines.tuned, baselines.expert)
    assert baselines.spaces == spaces
    for space, names in zip(spaces, (pretrained, tuned, expert), strict=True):
        assert list(space.score(seen)) == names == list(space.names)
    assert list(baselines.score(seen)) == [*pretrained, *tuned, *expert] == list(baselines.names)


def test_one_expert_scores_as_the_whole_model() -> None:
    head = Head(*linear_probe(TUNED[TRAIN], Y[TRAIN]))
    images = IMAGES._replace(held_experts_M=np.zeros(200, int), experts_C=np.zeros(6, int))
    only, refused = Baselines.fit(images, [head], k=5)
    assert refused == {}
    found = only.score(look(TEST, np.zeros(len(TEST), int)))
    assert tuple(found) == only.names
    for name in (*UNFITTED, *FITTED):
        np.testing.assert_allclose(found[f"expert.{name}"], found[f"tuned.{name}"], rtol=1e-6, err_msg=name)


def test_what_one_expert_cannot_be_asked_is_left_out_of_all(tmp_path: Path) -> None:
    """An expert of one class has no boundary, no temperature, and no class to be nearer to than to all."""
    experts = np.array([0, 0, 0, 0, 0, 1])
    weight_CD, bias_C = linear_probe(TUNED[TRAIN], Y[TRAIN])
    others = torch.zeros(1, 48), torch.zeros(1)
    parts = [Head(torch.cat([weight_CD[p], others[0]]), torch.cat([bias_C[p], others[1]])) for p in (slice(5), [5])]
    fitted, refused = Baselines.fit(IMAGES._replace(held_experts_M=experts[Y[HELD]], experts_C=experts), parts, k=5)
    gone = ("temperature", "relative_mahalanobis", "fdbd")
    assert set(refused) == {f"expert.{name}" for name in gone}
    assert all(reason.startswith("expert 1: ") for reason in refused.values())
    assert "needs two classes or more" in refused["expert.fdbd"]
    experts_B = experts[Y[TEST]]
    found = fitted.score(look(TEST, experts_B))
    assert tuple(found) == fitted.names
    assert not {f"expert.{name}" for name in gone} & set(found)
    assert {f"tuned.{name}" for name in gone} < set(found)
    np.testing.assert_allclose(found["expert.msp"][experts_B == 1], 1)
    fitted.save(tmp_path)
    assert Baselines.load(tmp_path).names == fitted.names


def test_what_a_probe_cannot_be_fitted_on_is_told_by_its_space() -> None:
    """Every held-out image is right under the probe of its own features: no temperature is the best."""
    easy = 100.0 * np.eye(10, 64, dtype=np.float32)[Y] + Z
    fitted, refused = Baselines.fit(IMAGES._replace(pretrained=Embedded(easy[TRAIN], easy[HELD])), heads(), k=5)
    assert set(refused) == {"pretrained.temperature"}
    assert "there is no best temperature" in refused["pretrained.temperature"]
    assert "pretrained.temperature" not in fitted.pretrained.names


@pytest.fixture(scope="module")
def texts() -> Texts:
    projection_DP = torch.randn(64, 16, generator=torch.Generator().manual_seed(0)) / 8
    means_CD = np.stack([Z[TRAIN][Y[TRAIN] == c].mean(axis=0) for c in range(6)])
    return Texts(projection_DP, 30.0, normalize(torch.from_numpy(means_CD) @ projection_DP, dim=1))


def test_texts_lie_beside_the_pretrained_backbone(texts: Texts, tmp_path: Path) -> None:
    fitted, refused = Baselines.fit(IMAGES, heads(), k=5, texts=texts)
    assert refused == {}
    assert fitted.text is not None
    assert fitted.spaces == (fitted.pretrained, fitted.tuned, fitted.expert, fitted.text)
    assert fitted.names == tuple(name for space in fitted.spaces for name in space.names)
    z_BD = torch.from_numpy(Z[TEST])
    image, class_CP = (x.double().numpy() for x in (normalize(z_BD @ texts.projection_DP, dim=1), texts.class_CP))
    found = fitted.text.score(look(TEST))
    np.testing.assert_allclose(found["text.msp"], softmax(30 * image @ class_CP.T, axis=1).max(axis=1), rtol=1e-4)
    fitted.save(tmp_path / "new" / "folder")
    again = Baselines.load(tmp_path / "new" / "folder")
    assert again.text is not None
    assert again.names == fitted.names
    for name, values in again.text.score(look(TEST)).items():
        np.testing.assert_array_equal(values, found[name])


def test_why_the_text_space_lacks_a_detector_is_told(texts: Texts) -> None:
    one = np.array([np.flatnonzero(Y[TRAIN] == c)[0] for c in range(6)])
    rows = np.r_[one, one]
    pretrained, tuned = Embedded(Z[TRAIN][rows], Z[HELD]), Embedded(TUNED[TRAIN][rows], TUNED[HELD])
    images = IMAGES._replace(pretrained=pretrained, tuned=tuned, labels_N=Y[TRAIN][rows])
    _, refused = Baselines.fit(images, heads(), k=5, texts=texts)
    assert "do not vary within any class" in refused["text.gda_msp"]
    assert "do not vary" in refused["tuned.mahalanobis"]


def test_what_was_not_saved_is_named(baselines: Baselines, tmp_path: Path) -> None:
    with pytest.raises(MofeError, match=rf"{TENSORS} cannot be read"):
        Baselines.load(tmp_path)
    baselines.save(tmp_path)
    (tmp_path / TENSORS).write_bytes(b"no tensors")
    with pytest.raises(MofeError, match=rf"{TENSORS} cannot be read"):
        Baselines.load(tmp_path)
