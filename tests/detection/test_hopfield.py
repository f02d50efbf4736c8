"""SHE against pytorch-ood, and by definition."""

import numpy as np
import pytest
import torch
from pytorch_ood import detector as theirs
from samples import Sample

from mofe.detection.hopfield import SHE
from mofe.errors import MofeError


def fitted(sample: Sample, size: int = 64) -> SHE:
    parts = (sample.train.split(size), sample.labels.split(size), sample.train_logits.argmax(1).split(size))
    return SHE.fit(zip(*parts, strict=True), sample.classes)


def test_against_pytorch_ood(sample: Sample) -> None:
    reference = theirs.SHE(None, lambda z: z @ sample.weight.T + sample.bias).fit_features(sample.train, sample.labels)
    scores = fitted(sample).score(sample.test, sample.test_logits.argmax(1))
    torch.testing.assert_close(scores.float(), -reference.predict_features(sample.test), rtol=1e-4, atol=1e-3)


def test_by_definition(sample: Sample) -> None:
    train, labels, predicted = sample.train.double(), sample.labels, sample.train_logits.argmax(1)
    patterns = torch.stack([train[(labels == c) & (predicted == c)].mean(0) for c in range(sample.classes)])
    new = sample.test_logits.argmax(1)
    expected = [float(z @ patterns[c]) for z, c in zip(sample.test.double(), new, strict=True)]
    np.testing.assert_allclose(fitted(sample, 7).score(sample.test, new), expected, rtol=1e-10, atol=1e-10)


def test_the_score_grows_with_the_feature(sample: Sample) -> None:
    new = sample.test_logits.argmax(1)
    torch.testing.assert_close(fitted(sample).score(4 * sample.test, new), 4 * fitted(sample).score(sample.test, new))


def test_what_has_no_pattern(sample: Sample) -> None:
    wrong = (sample.labels + (sample.labels == 2)) % sample.classes
    with pytest.raises(MofeError, match="class 2 has no training image that is predicted correctly"):
        SHE.fit([(sample.train, sample.labels, wrong)], sample.classes)
    with pytest.raises(MofeError, match=r"^there is no training image"):
        SHE.fit([], sample.classes)
    with pytest.raises(MofeError, match="not finite"):
        SHE.fit([(sample.train / 0, sample.labels, sample.labels)], sample.classes)
    with pytest.raises(MofeError, match=f"not one of {sample.classes} classes"):
        fitted(sample).score(sample.test[:1], torch.tensor([sample.classes]))


def test_chunks_of_two_widths_and_predictions_of_no_class_are_refused(sample: Sample) -> None:
    chunk = sample.train, sample.labels, sample.labels
    with pytest.raises(MofeError, match="the detector was fitted on"):
        SHE.fit([chunk, (sample.train[:, 1:], sample.labels, sample.labels)], sample.classes)
    with pytest.raises(MofeError, match=f"label {sample.classes} at row 0 is not one of"):
        SHE.fit([(sample.train, sample.labels, 0 * sample.labels + sample.classes)], sample.classes)
    with pytest.raises(MofeError, match="label -1 at row"):
        SHE.fit([(sample.train, sample.labels - 1, sample.labels)], sample.classes)
    with pytest.raises(MofeError, match="the detector was fitted on"):
        fitted(sample).score(sample.test[:, 1:], sample.test_logits.argmax(1))
