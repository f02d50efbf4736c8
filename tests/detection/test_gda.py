"""GDA against the official formula in NumPy's float64, and scikit-learn's discriminant analysis."""

import numpy as np
import pytest
import torch
from samples import Sample
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn.functional import normalize

from mofe.detection.gda import GDA
from mofe.detection.moments import ClassMoments
from mofe.errors import MofeError


def moments(sample: Sample) -> ClassMoments:
    return ClassMoments.of([(sample.train, sample.labels)], sample.classes, normalise=True)


def fitted(sample: Sample, **options: float) -> GDA:
    return GDA.fit(moments(sample), sample.weight, sample.train[::2], sample.labels[::2], **options)


def gaussian_part(sample: Sample) -> np.ndarray:
    train, test = (normalize(z.double(), dim=1).numpy() for z in (sample.train, sample.test))
    means = np.stack([train[sample.labels == c].mean(0) for c in range(sample.classes)])
    covariance = np.cov((train - means[sample.labels]).T)
    shrunk = (len(train) - 1) * covariance + np.trace(covariance) * np.eye(len(covariance))
    precision = len(covariance) * np.linalg.pinv(shrunk)
    bias = np.log(1 / sample.classes) - np.einsum("cd,de,ce->c", means, precision, means) / 2
    return test @ (means @ precision).T + bias


@pytest.mark.parametrize("logit_scale", [1.0, 100.0])
def test_by_the_official_formula(logit_scale: float, sample: Sample) -> None:
    ours = fitted(sample, logit_scale=logit_scale)
    text, test = (normalize(x.double(), dim=1).numpy() for x in (sample.weight, sample.test))
    expected = logit_scale * test @ text.T + ours.alpha * gaussian_part(sample)
    np.testing.assert_allclose(ours.logits(sample.test), expected, rtol=1e-9, atol=1e-9)


def test_alpha_is_the_first_of_the_best_accuracy_on_held_out_images(sample: Sample) -> None:
    new, labels = sample.train[::2], sample.labels[::2]
    text, images = (normalize(x.double(), dim=1) for x in (sample.weight, new))
    part = torch.from_numpy(gaussian_part(sample._replace(test=new)))
    grid = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]
    right = [int(((images @ text.T + a * part).argmax(1) == labels).sum()) for a in grid]
    assert fitted(sample, logit_scale=1.0).alpha == grid[int(np.argmax(right))]


def test_the_gaussian_part_is_scikit_learns_discriminant_analysis(sample: Sample) -> None:
    """But for a factor: theirs shrinks to (1 − s) Σ + s tr(Σ) / D · I, here s / (1 − s) = D / (N − 1)."""
    z = normalize(sample.train.double(), dim=1).numpy()
    test = normalize(sample.test.double(), dim=1).numpy()
    n, width = z.shape
    shrinkage = (width / (n - 1)) / (1 + width / (n - 1))
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(z, sample.labels)
    expected = test @ theirs.coef_.T + theirs.intercept_ - np.log(theirs.priors_)
    without_text = fitted(sample, logit_scale=0.0)
    ours = without_text.logits(sample.test).numpy() / without_text.alpha + np.log(sample.classes)
    np.testing.assert_allclose(ours * n / width / (1 - shrinkage), expected, rtol=1e-6, atol=1e-6)


def test_the_length_of_embeddings_and_the_order_of_images_do_not_matter(sample: Sample) -> None:
    order = torch.randperm(len(sample.train))
    shuffled = sample._replace(train=4 * sample.train[order], labels=sample.labels[order], weight=8 * sample.weight)
    again = GDA.fit(moments(shuffled), shuffled.weight, 2 * sample.train[::2], sample.labels[::2])
    torch.testing.assert_close(again.logits(16 * sample.test), fitted(sample).logits(sample.test), rtol=1e-8, atol=1e-8)


def test_what_cannot_be_fitted(sample: Sample) -> None:
    one_each = torch.stack([sample.train[sample.labels == c][0] for c in range(sample.classes)])
    still = ClassMoments.of([(one_each, torch.arange(sample.classes))], sample.classes, normalise=True)
    raw = ClassMoments.of([(sample.train, sample.labels)], sample.classes)
    some = sample.train[:9], sample.labels[:9]
    for of, text, held_out, message in (
        (raw, sample.weight, some, "normalise=True"),
        (still, sample.weight, some, "more than one image"),
        (moments(sample), sample.weight[1:], some, "a text embedding for each of"),
        (moments(sample), sample.weight[:, 1:], some, "fitted on"),
        (moments(sample), sample.weight, (some[0][:0], some[1][:0]), "held-out images"),
        (moments(sample), 0 * sample.weight, some, "is zero"),
        (moments(sample), sample.weight, (some[0] / 0, some[1]), "not finite"),
    ):
        with pytest.raises(MofeError, match=message):
            GDA.fit(of, text, *held_out)


ALPHAS = [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_each_alpha_of_the_grid_is_taken_where_it_alone_is_right(alpha: float) -> None:
    """Two classes along the first axis; texts that differ along the second; one image asks for more, one for less.

    By symmetry b is the same for both, and w_0 − w_1 = 2 D m / (v + t) along the first axis: m the mean, v the scatter
    of it, t the trace over N − 1.
    """
    one = normalize(torch.tensor([[1.0, y, z] for y in (-0.5, 0.5) for z in (-0.5, 0.5)]).double(), dim=1)
    train, labels = torch.cat([one, one * torch.tensor([-1.0, 1, 1])]), torch.tensor([0] * 4 + [1] * 4)
    m = one[:, 0].mean()
    scatter = (train - torch.stack([m, -m])[labels][:, None] * torch.tensor([1.0, 0, 0])).square().sum(dim=0)
    steep = float(2 * 3 * m / (scatter[0] + scatter.sum() / 7))
    scale, x = 1e4, 0.5
    texts = torch.tensor([[0.0, 1, 0], [0, -1, 0]])
    height = [factor * alpha * steep * x / (2 * scale) for factor in (0.5, 2)]
    held = torch.tensor([[x, -height[0], 0], [-x, height[1], 0]]).double()  # right above α / 2, and below 2 α
    held[:, 2] = (1 - held.square().sum(dim=1)).sqrt()
    fit = GDA.fit(ClassMoments.of([(train, labels)], 2, normalise=True), texts, held, torch.zeros(2).long(), scale)
    assert fit.alpha == alpha
    np.testing.assert_allclose((fit.weight_CD[0] - fit.weight_CD[1])[0], steep, rtol=1e-12)


def test_where_nothing_is_said_the_logit_scale_is_100(sample: Sample) -> None:
    assert fitted(sample).logit_scale == 100


def test_two_images_of_one_class_have_a_variance(sample: Sample) -> None:
    """N − 1 is 1."""
    two = Sample(sample.train[:2], torch.zeros(2).long(), sample.test, sample.weight[:1], sample.bias[:1])
    ours = GDA.fit(moments(two), two.weight, two.train, two.labels, 0.0)
    np.testing.assert_allclose(ours.logits(two.test), ours.alpha * gaussian_part(two), rtol=1e-9)


def test_embeddings_of_another_width_than_the_moments_are_refused(sample: Sample) -> None:
    narrow = sample.train[:9, 1:], sample.labels[:9]
    with pytest.raises(MofeError, match="the detector was fitted on"):
        GDA.fit(moments(sample), sample.weight[:, 1:], *narrow)
    with pytest.raises(MofeError, match="the detector was fitted on"):
        fitted(sample).logits(sample.test[:, 1:])
