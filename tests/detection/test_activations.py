"""ReAct, DICE, ASH and SCALE against pytorch-ood, and by definition."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytorch_ood import detector as theirs
from samples import Sample
from torch import Tensor

from mofe.detection.activations import DICE, ReAct, ash_b, ash_p, ash_s, head_energy, scale
from mofe.errors import MofeError

SHAPES = {"ash-p": ash_p, "ash-b": ash_b, "ash-s": ash_s, "scale": scale}


@pytest.fixture(params=["either sign", "at least 0"])
def activations(request: pytest.FixtureRequest, sample: Sample) -> Sample:
    """A transformer's, and a convolutional network's."""
    if request.param == "either sign":
        return sample
    return sample._replace(train=sample.train.clamp(min=0), test=sample.test.clamp(min=0))


def head(sample: Sample) -> Callable[[Tensor], Tensor]:
    return lambda maps: maps.flatten(1) @ sample.weight.T + sample.bias


@pytest.mark.parametrize("quantile", [0.0, 0.85, 0.9, 1.0])
def test_react_against_pytorch_ood(quantile: float, activations: Sample) -> None:
    reference = theirs.ReAct(None, head(activations), percentile=quantile)
    reference.fit_feature_maps(activations.train, activations.labels)
    ours = ReAct.fit(activations.train, quantile)
    assert ours.threshold == pytest.approx(reference.threshold, rel=1e-6, abs=1e-12)
    scores = ours.score(activations.test, activations.weight, activations.bias)
    torch.testing.assert_close(scores, -reference.predict_feature_maps(activations.test), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sparsity", [0.1, 0.7, 0.9])
def test_dice_against_pytorch_ood(sparsity: float, activations: Sample) -> None:
    reference = theirs.DICE(None, activations.weight, activations.bias, sparsity)
    reference.fit_features(activations.train, activations.labels)
    ours = DICE.fit(activations.train.mean(0), activations.weight, activations.bias, sparsity)
    assert torch.equal(ours.weight_CD, reference.masked_w)
    scores = ours.score(activations.test)
    torch.testing.assert_close(scores, -reference.predict_features(activations.test), rtol=1e-4, atol=1e-4)


def proper(sample: Sample, pruned: float) -> Tensor:
    """The images whose kept activations sum to more than 0, as those of a convolutional network do."""
    kept = sample.test.shape[1] - round(sample.test.shape[1] * pruned)
    return sample.test[sample.test.topk(kept, 1).values.sum(1) > 0]


@pytest.mark.parametrize("pruned", [0.0, 0.65, 0.9])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes_against_pytorch_ood(name: str, pruned: float, activations: Sample) -> None:
    test = proper(activations, pruned)
    options = {} if name == "scale" else {"variant": name}
    reference = (theirs.SCALE if name == "scale" else theirs.ASH)(None, head(activations), percentile=pruned, **options)
    expected = -reference.predict_feature_maps(test[:, :, None, None])
    scores = head_energy(SHAPES[name](test, pruned), activations.weight, activations.bias)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    assert len(test) > (0.9 if pruned else 0.3) * len(activations.test)


def test_shapes_by_hand() -> None:
    z = torch.tensor([[4.0, 1, 2, 3]])
    e = np.exp(10 / 7)
    assert ash_p(z, 0.5).tolist() == [[4, 0, 0, 3]]
    assert ash_b(z, 0.5).tolist() == [[5, 0, 0, 5]]
    np.testing.assert_allclose(ash_s(z, 0.5), [[4 * e, 0, 0, 3 * e]], rtol=1e-6)
    np.testing.assert_allclose(scale(z, 0.5), [[4 * e, e, 2 * e, 3 * e]], rtol=1e-6)
    assert z.tolist() == [[4, 1, 2, 3]]  # untouched


@pytest.mark.parametrize("name", SHAPES)
def test_half_precision_is_widened(name: str, sample: Sample) -> None:
    half = sample.test.half()
    torch.testing.assert_close(SHAPES[name](half), SHAPES[name](half.float()), rtol=0, atol=0)


def test_features_of_zero_and_below_have_an_answer() -> None:
    z = torch.tensor([[0.0, 0, 0, 0], [-1, -2, -3, -4], [2, 2, 2, 2]])
    assert ash_s(z, 0.5).tolist()[:2] == [[0, 0, 0, 0], [-1, -2, 0, 0]]
    assert scale(z, 0.5)[:2].tolist() == z[:2].tolist()
    torch.testing.assert_close(scale(z, 0.5)[2], z[2] * np.exp(2).astype(np.float32))


@pytest.mark.parametrize("name", SHAPES)
def test_the_order_of_features_does_not_matter(name: str, sample: Sample) -> None:
    order = torch.randperm(sample.test.shape[1])
    torch.testing.assert_close(SHAPES[name](sample.test[:, order]), SHAPES[name](sample.test)[:, order])


def test_the_quantile_is_numpys() -> None:
    values = torch.rand(257, 389, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.123, 0.9, 0.99999, 1.0):
        assert ReAct.fit(values, share).threshold == pytest.approx(
            np.quantile(values.double().numpy(), share), rel=1e-12
        )


def test_what_cannot_be_reshaped(sample: Sample) -> None:
    for attempt, message in (
        (lambda: ReAct.fit(sample.train, 1.1), "quantile of 1.1"),
        (lambda: ReAct.fit(sample.train[:0]), "no training features"),
        (lambda: ReAct.fit(sample.train / 0), "not finite"),
        (lambda: DICE.fit(sample.train.mean(0), sample.weight, sample.bias, -0.1), "quantile of -0.1"),
        (lambda: DICE.fit(sample.train.mean(0)[1:], sample.weight, sample.bias), "the head reads"),
        (lambda: ash_s(sample.test, 1.0), "keeps 0 of them"),
        (lambda: scale(sample.test, -0.5), "choose a share"),
        (lambda: ash_b(sample.test * torch.nan), "not finite"),
        (lambda: head_energy(sample.test, sample.weight / 0, sample.bias), "not finite"),
    ):
        with pytest.raises(MofeError, match=message):
            attempt()


def test_dice_drops_a_weight_whose_contribution_is_the_quantile_itself() -> None:
    """Of the products 1, 2, 3, 4 the quantile of ⅓ is 2: what is above it is kept, as in the official code."""
    fitted = DICE.fit(torch.tensor([1.0, 2.0]), torch.tensor([[1.0, 1.0], [3.0, 2.0]]), torch.tensor([5.0, 6.0]), 1 / 3)
    assert fitted.weight_CD.tolist() == [[0, 0], [3, 2]]
    assert fitted.bias_C.tolist() == [5, 6]


@pytest.mark.parametrize("name", ["ash-s", "scale"])
def test_the_unit_of_the_features_does_not_change_how_much_they_are_sharpened(name: str, sample: Sample) -> None:
    small = 1e-3 * sample.test
    torch.testing.assert_close(SHAPES[name](small), 1e-3 * SHAPES[name](sample.test), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_quantile_of_one_feature_is_that_feature(share: float) -> None:
    assert ReAct.fit(torch.tensor([[0.5]]), share).threshold == 0.5
