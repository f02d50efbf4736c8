"""A suite is each detector with its official settings, on the features and under the head that it was given."""

import numpy as np
import pytest
import torch
from pytorch_ood import detector as theirs
from samples import Sample
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.covariance import EmpiricalCovariance
from torch import Tensor
from torch.nn.functional import normalize

from mofe.detection import suite as module
from mofe.detection.suite import FITTED, UNFITTED, Suite
from mofe.errors import MofeError

GENERATOR = torch.Generator().manual_seed(0)


def held(sample: Sample) -> tuple[Tensor, Tensor]:
    """Images of known classes, some of them with another's label: no head is right about all."""
    labels = torch.where(torch.arange(len(sample.labels)) % 10 == 0, 0, sample.labels)[::2]
    return sample.train[::2] + 0.1, labels


def fitted(sample: Sample) -> Suite:
    suite, refused = Suite.fit(sample.train, sample.labels, *held(sample), sample.weight, sample.bias)
    assert refused == {}
    return suite


def nearest_class(train: Tensor, labels: Tensor, test: Tensor) -> np.ndarray:
    """Minus the squared Mahalanobis distance to the nearest class mean, by scikit-learn's covariance."""
    train, test = train.double().numpy(), test.double().numpy()
    means = np.stack([train[labels == c].mean(axis=0) for c in range(int(labels.max()) + 1)])
    covariance = EmpiricalCovariance(assume_centered=True).fit(train - means[labels])
    return -np.min([covariance.mahalanobis(test - mean) for mean in means], axis=0)


def from_all(train: Tensor, test: Tensor) -> np.ndarray:
    return -EmpiricalCovariance().fit(train.double().numpy()).mahalanobis(test.double().numpy())


def virtual_logit(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Residual and ViM of half the dimensions; the rows of a head of softmax add up to 0, so its rank is one less."""
    train, test, weight, bias = (x.double().numpy() for x in (sample.train, sample.test, sample.weight, sample.bias))
    rank = len(weight) - int(np.abs(weight.sum(axis=0)).max() < 1e-5)
    left, singular, right = np.linalg.svd(weight, full_matrices=False)
    origin = -right[:rank].T @ ((left[:, :rank].T @ bias) / singular[:rank])
    null = np.linalg.svd(train - origin, full_matrices=True)[2][train.shape[1] // 2 :]
    new, known = (np.linalg.norm((z - origin) @ null.T, axis=1) for z in (test, train))
    alpha = (train @ weight.T + bias).max(axis=1).sum() / known.sum()
    return -new, logsumexp(test @ weight.T + bias, axis=1) - alpha * new


def temperature_of(sample: Sample) -> float:
    features, labels = held(sample)
    logits = (features @ sample.weight.T + sample.bias).double().numpy()

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-8, 8), method="bounded", options={"xatol": 1e-9}).x))


def expected(sample: Sample) -> dict[str, np.ndarray]:
    """By scikit-learn, SciPy and pytorch-ood, whose scores are higher for images that are more unknown."""
    train, test, labels = sample.train, sample.test, sample.labels
    maps = test[:, :, None, None]

    def head(features: Tensor) -> Tensor:
        return features.flatten(1) @ sample.weight.T + sample.bias

    def by(detector: object) -> np.ndarray:
        return -detector.predict_feature_maps(maps).numpy()  # type: ignore[attr-defined]

    logits = sample.test_logits.double().numpy()
    p = softmax(logits, axis=1)
    react = theirs.ReAct(None, head, percentile=0.9)
    react.fit_feature_maps(train, labels)
    near, near_sphere = (
        nearest_class(a, labels, b) for a, b in ((train, test), (normalize(train, dim=1), normalize(test, dim=1)))
    )
    residual, vim = virtual_logit(sample)
    between = np.linalg.norm(sample.weight[:, None] - sample.weight[None], axis=2)
    top = logits.argmax(axis=1)
    margins = (logits.max(axis=1)[:, None] - logits) / np.where(between == 0, 1, between)[top]
    from_mean = np.linalg.norm(test - train.mean(dim=0), axis=1)
    return {
        "msp": p.max(axis=1),
        "max_logit": logits.max(axis=1),
        "energy": logsumexp(logits, axis=1),
        "entropy": -entropy(p, axis=1),
        "gen": -((p * (1 - p)) ** 0.1).sum(axis=1),
        "ash_p": by(theirs.ASH(None, head, percentile=0.6, variant="ash-p")),
        "ash_b": by(theirs.ASH(None, head, percentile=0.65, variant="ash-b")),
        "ash_s": by(theirs.ASH(None, head, percentile=0.9, variant="ash-s")),
        "scale": by(theirs.SCALE(None, head, percentile=0.85)),
        "temperature": softmax(logits / temperature_of(sample), axis=1).max(axis=1),
        "kl_matching": -theirs.KLMatching(None)
        .fit_logits(sample.train_logits.double())
        .predict_logits(sample.test_logits.double())
        .numpy(),
        "mahalanobis": near,
        "mahalanobis++": near_sphere,
        "relative_mahalanobis": near - from_all(train, test),
        "ssd": from_all(normalize(train, dim=1), normalize(test, dim=1)),
        "residual": residual,
        "vim": vim,
        "react": -react.predict_feature_maps(test).numpy(),
        "dice": -theirs.DICE(None, sample.weight, sample.bias, 0.7)
        .fit_features(train, labels)
        .predict_features(test)
        .numpy(),
        "she": -theirs.SHE(None, head).fit_features(train, labels).predict_features(test).numpy(),
        "nnguide": -theirs.NNGuide(None, head, 10).fit_features(train, labels).predict_features(test).numpy(),
        "fdbd": margins.sum(axis=1) / (sample.classes - 1) / from_mean,
    }


def positive(sample: Sample) -> Sample:
    """Activations of at least 0, which ASH and SCALE were made for."""
    return sample._replace(train=sample.train.clamp(min=0), test=sample.test.clamp(min=0))


def test_every_score_is_the_official_one(sample: Sample) -> None:
    sample = positive(sample)
    found, wanted = fitted(sample).score(sample.test), expected(sample)
    assert set(found) == set(wanted) == {*UNFITTED, *FITTED}
    for name, values in wanted.items():
        assert found[name].dtype == torch.float64
        np.testing.assert_allclose(
            found[name], values, rtol=2e-4, atol=2e-4 * float(np.abs(values).max()), err_msg=name
        )


def test_names_are_those_of_the_scores_in_their_order(sample: Sample) -> None:
    suite = fitted(sample)
    assert suite.names == tuple(suite.score(sample.test[:2])) == (*UNFITTED, *FITTED)


def test_features_in_half_precision_are_those_in_single(sample: Sample) -> None:
    half = sample._replace(train=sample.train.half(), test=sample.test.half())
    single = sample._replace(train=half.train.float(), test=half.test.float())
    ours, theirs_ = (
        Suite.fit(s.train, s.labels, *held(single), s.weight, s.bias)[0].score(s.test) for s in (half, single)
    )
    for name, values in theirs_.items():
        torch.testing.assert_close(ours[name], values, rtol=1e-9, atol=1e-9)


def test_how_many_features_are_read_at_once_changes_nothing(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = fitted(sample).score(sample.test)
    monkeypatch.setattr(module, "CHUNK", 100)
    for name, values in fitted(sample).score(sample.test).items():
        torch.testing.assert_close(values, at_once[name], rtol=1e-5, atol=1e-5)


def test_of_many_training_images_the_sampled_ones_lie_evenly_over_all(
    sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """11 of 101 images are every tenth, the first and the last among them."""
    monkeypatch.setattr(module, "BANK", 11)
    monkeypatch.setattr(module, "SAMPLE", 11)
    few = sample._replace(train=sample.train[:101], labels=sample.labels[:101])
    tenth = few._replace(train=few.train[::10], labels=few.labels[::10])
    suite = fitted(few)
    scores = suite.score(few.test)
    guide = theirs.NNGuide(None, lambda z: z @ few.weight.T + few.bias, 10).fit_features(tenth.train, tenth.labels)
    np.testing.assert_allclose(scores["nnguide"], -guide.predict_features(few.test), rtol=1e-3, atol=1e-3)
    assert suite.fitted["react"].threshold == pytest.approx(np.quantile(tenth.train.double().numpy(), 0.9), rel=1e-6)
    logits = tenth.train_logits.double()
    wanted = -theirs.KLMatching(None).fit_logits(logits).predict_logits(few.test_logits.double()).numpy()
    np.testing.assert_allclose(scores["kl_matching"], wanted, rtol=1e-3, atol=1e-3)
    length = -suite.fitted["residual"].score(tenth.train.double())
    assert suite.fitted["vim"].alpha == pytest.approx(float(logits.amax(dim=1).sum() / length.sum()), rel=1e-5)


def test_as_many_training_images_as_are_sampled_are_all_taken(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = fitted(sample)
    monkeypatch.setattr(module, "SAMPLE", len(sample.train))
    monkeypatch.setattr(module, "BANK", len(sample.train))
    for name, values in fitted(sample).score(sample.test).items():
        torch.testing.assert_close(values, everything.score(sample.test)[name], rtol=0, atol=0)


def test_it_comes_back_from_its_tensors(sample: Sample) -> None:
    suite = fitted(sample)
    again = Suite.of_tensors(suite.tensors())
    assert again.names == suite.names
    for name, values in suite.score(sample.test).items():
        torch.testing.assert_close(again.score(sample.test)[name], values, rtol=0, atol=0)


def test_what_was_refused_does_not_come_back(sample: Sample) -> None:
    one = sample.labels == 0
    features, zeros = sample.train[one], torch.zeros(int(one.sum())).long()
    suite, refused = Suite.fit(features, zeros, features, zeros, sample.weight[:1], sample.bias[:1])
    assert set(refused) == {"temperature", "relative_mahalanobis", "fdbd"}
    assert (
        Suite.of_tensors(suite.tensors()).names == suite.names == (*UNFITTED, *(n for n in FITTED if n not in refused))
    )


def test_a_temperature_at_either_end_is_refused(sample: Sample) -> None:
    right = 5 * torch.eye(sample.classes)
    every = torch.arange(sample.classes)
    for weight in (right, -right):  # every held-out image is right, or every one is wrong
        suite, refused = Suite.fit(
            right.repeat(4, 1) + torch.randn(4 * sample.classes, sample.classes, generator=GENERATOR),
            every.repeat(4), right, every, weight, torch.zeros(sample.classes),
        )  # fmt: skip
        assert "there is no best temperature" in refused["temperature"]
        assert "temperature" not in suite.names


def test_moments_without_an_image_of_a_class_are_an_error(sample: Sample) -> None:
    with pytest.raises(MofeError, match="class 1 has no training feature"):
        Suite.fit(sample.train, 0 * sample.labels, sample.train, sample.labels, sample.weight, sample.bias)


def test_nnguide_looks_among_one_percent_of_imagenet() -> None:
    assert round(1_281_167 / 100) == module.BANK
