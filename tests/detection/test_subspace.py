"""ViM and Residual against pytorch-ood, and the official formula in NumPy's float64."""

import numpy as np
import pytest
import torch
from pytorch_ood.detector import ViM as TheirViM
from samples import Sample
from scipy.special import logsumexp
from torch import Tensor

from mofe.detection.moments import ClassMoments
from mofe.detection.subspace import Residual, ViM
from mofe.errors import MofeError


def moments(sample: Sample, normalise: bool = False) -> ClassMoments:
    return ClassMoments.of([(sample.train, sample.labels)], sample.classes, normalise=normalise)


def vim(sample: Sample, principal: int | None) -> ViM:
    return ViM.fit(moments(sample), sample.train.split(100), sample.weight, sample.bias, principal)


def reference(sample: Sample, principal: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of Residual and ViM by singular vectors, from all training features at once."""
    train, test, weight, bias = (x.double().numpy() for x in (sample.train, sample.test, sample.weight, sample.bias))
    rank = len(weight) - int(np.abs(weight.sum(axis=0)).max() < 1e-5)  # rows of a softmax head may add up to 0
    left, singular, right = np.linalg.svd(weight, full_matrices=False)
    origin = -right[:rank].T @ ((left[:, :rank].T @ bias) / singular[:rank])
    null = np.linalg.svd(train - origin, full_matrices=True)[2][principal:]
    virtual, virtual_train = (np.linalg.norm((z - origin) @ null.T, axis=1) for z in (test, train))
    alpha = (train @ weight.T + bias).max(1).mean() / virtual_train.mean()
    return -virtual, logsumexp(test @ weight.T + bias, axis=1) - alpha * virtual


@pytest.mark.parametrize("principal", [1, 7, 15])
def test_by_definition(principal: int, sample: Sample) -> None:
    residual, expected = reference(sample, principal)
    ours = Residual.fit(moments(sample), sample.weight, sample.bias, principal)
    np.testing.assert_allclose(ours.score(sample.test.double()), residual, rtol=1e-8)
    np.testing.assert_allclose(vim(sample, principal).score(sample.test.double()), expected, rtol=1e-8, atol=1e-8)


def test_scores_have_the_precision_of_the_features(sample: Sample) -> None:
    for detector in (vim(sample, 7), Residual.fit(moments(sample), sample.weight, sample.bias, 7)):
        exact, narrow = detector.score(sample.test.double()), detector.score(sample.test)
        assert (exact.dtype, narrow.dtype) == (torch.float64, torch.float32)
        torch.testing.assert_close(narrow.double(), exact, rtol=1e-5, atol=1e-6 * float(exact.abs().max()))
        halves = detector.score(sample.test.half())
        torch.testing.assert_close(halves, detector.score(sample.test.half().float()), rtol=0, atol=0)


@pytest.mark.parametrize("principal", [1, 7, 15])
def test_against_pytorch_ood(principal: int, sample: Sample) -> None:
    theirs = TheirViM(None, principal, sample.weight, sample.bias).fit_features(sample.train, sample.labels)
    ours = vim(sample, principal)
    assert ours.alpha == pytest.approx(theirs.alpha, rel=1e-4)
    expected = -theirs.predict_features(sample.test)
    torch.testing.assert_close(
        ours.score(sample.test).float(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max())
    )


def test_the_default_dimension_is_the_official_codes(sample: Sample) -> None:
    width = sample.train.shape[1]
    torch.testing.assert_close(vim(sample, None).score(sample.test), vim(sample, width // 2).score(sample.test))


@pytest.mark.parametrize(("width", "kept"), [(767, 384), (768, 256), (2048, 1048)])
def test_the_default_dimension_of_wide_features(width: int, kept: int) -> None:
    wide = ClassMoments(torch.ones(1), torch.zeros(1, width), torch.eye(width), torch.zeros(width), False)
    assert Residual.fit(wide, torch.zeros(1, width), torch.zeros(1)).residual_DK.shape == (width, kept)


def test_a_head_whose_rows_sum_to_zero_but_for_rounding(sample: Sample) -> None:
    """As softmax heads do that were trained with weight decay: its pseudo-inverse is of one rank less."""
    weight, bias = (x.double() - x.double().mean(0) for x in (sample.weight, sample.bias))
    exact = Residual.fit(moments(sample), weight, bias, 5).score(sample.test)
    rounded = Residual.fit(moments(sample), weight.float(), bias.float(), 5).score(sample.test)
    torch.testing.assert_close(rounded, exact, rtol=1e-4, atol=1e-4)


def test_the_order_of_images_and_the_axes_of_the_features_do_not_matter(sample: Sample) -> None:
    order = torch.randperm(len(sample.train))
    turn = torch.linalg.qr(torch.randn(sample.train.shape[1], sample.train.shape[1]).double())[0]
    turned = Sample(
        sample.train[order].double() @ turn,
        sample.labels[order],
        sample.test.double() @ turn,
        sample.weight.double() @ turn,
        sample.bias.double(),
    )
    expected = vim(sample, 5).score(sample.test.double())
    torch.testing.assert_close(vim(turned, 5).score(turned.test), expected, rtol=1e-4, atol=1e-4)


def test_a_constant_feature_and_fewer_images_than_dimensions(sample: Sample) -> None:
    few = sample._replace(train=sample.train[:8].clone(), labels=torch.zeros(8).long())
    few.train[:, 0] = 1
    fitted = ViM.fit(ClassMoments.of([(few.train, few.labels)], 1), [few.train], few.weight, few.bias, 3)
    residual, _ = reference(few, 3)
    np.testing.assert_allclose(
        Residual(fitted.origin_D, fitted.residual_DK).score(few.test.double()), residual, rtol=1e-8
    )
    with pytest.raises(MofeError, match="within the principal subspace"):
        ViM.fit(ClassMoments.of([(few.train, few.labels)], 1), [few.train], few.weight, few.bias, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"principal": 0}, "principal subspace of 0 dimensions"),
        ({"principal": 99}, "principal subspace of 99 dimensions"),
        ({"weight_CD": torch.ones(2, 3), "bias_C": torch.ones(2)}, "the head reads 3 dimensions"),
        ({"bias_C": torch.ones(2)}, "it needs a row of weights and a bias"),
        ({"bias_C": torch.full((9,), torch.nan)}, "is not finite"),
        ({"bias_C": torch.full((9,), -1e6)}, "largest logits are negative"),
    ],
)
def test_what_cannot_be_fitted(change: dict[str, Tensor], message: str, sample: Sample) -> None:
    change = {k: v[: sample.classes] if k == "bias_C" and len(v) == 9 else v for k, v in change.items()}
    arguments = {"weight_CD": sample.weight, "bias_C": sample.bias, "principal": 4} | change
    with pytest.raises(MofeError, match=message):
        ViM.fit(moments(sample), [sample.train], **arguments)


def test_normalised_features_and_features_that_are_not_finite(sample: Sample) -> None:
    with pytest.raises(MofeError, match="do not normalise"):
        Residual.fit(moments(sample, normalise=True), sample.weight, sample.bias)
    with pytest.raises(MofeError, match="not finite"):
        vim(sample, 4).score(sample.test / 0)


def test_a_principal_subspace_of_all_dimensions_leaves_no_residual(sample: Sample) -> None:
    width = sample.train.shape[1]
    with pytest.raises(MofeError, match=f"principal subspace of {width} dimensions must have 1 to {width - 1}"):
        Residual.fit(moments(sample), sample.weight, sample.bias, width)


def test_the_unit_of_the_head_is_the_unit_of_alpha(sample: Sample) -> None:
    small = sample._replace(weight=1e-6 * sample.weight, bias=1e-6 * sample.bias)
    assert vim(small, 7).alpha == pytest.approx(1e-6 * vim(sample, 7).alpha, rel=1e-5)


def test_a_head_of_zeros_has_no_alpha(sample: Sample) -> None:
    with pytest.raises(MofeError, match="largest logits are negative"):
        ViM.fit(moments(sample), [sample.train], 0 * sample.weight, 0 * sample.bias, 4)


def test_features_of_another_width_are_refused(sample: Sample) -> None:
    for detector in (vim(sample, 4), Residual.fit(moments(sample), sample.weight, sample.bias, 4)):
        with pytest.raises(MofeError, match="the detector was fitted on"):
            detector.score(sample.test[:, 1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_residual_that_is_the_rounding_of_the_features_is_none(dtype: torch.dtype) -> None:
    """Features in 5 of 24 directions, for which float64 leaves no residual beside 7 dimensions."""
    generator = torch.Generator().manual_seed(6)
    basis = torch.linalg.qr(torch.randn(24, 5, generator=generator).double())[0]
    train = (3 * torch.randn(400, 5, generator=generator).double() @ basis.T).to(dtype)
    weight, bias, labels = torch.randn(4, 5, generator=generator).double() @ basis.T, torch.zeros(4), torch.arange(400)
    moments = ClassMoments.of([(train, labels % 4)], 4)
    with pytest.raises(MofeError, match="up to rounding"):
        ViM.fit(moments, [train.float()], weight, bias.double(), 7)
    assert ViM.fit(moments, [train.float()], weight, bias.double(), 4).alpha < 10
