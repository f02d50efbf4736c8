"""The linear probe: which images take part, and that folding the standardisation changes no logit."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from mofe.detection import linear_probe as module
from mofe.detection.linear_probe import linear_probe


def test_of_a_large_class_some_images_take_part_and_of_a_small_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 20)
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [70, 5, 30]))
    z = rng.normal(size=(105, 4)) + labels[:, None]
    order = np.random.default_rng(3).permutation(105)
    chosen = np.sort(np.concatenate([order[labels[order] == c][:20] for c in range(3)]))
    assert len(chosen) == 45
    mean, spread = z[chosen].mean(axis=0), z[chosen].std(axis=0)
    model = LogisticRegression(max_iter=200).fit((z[chosen] - mean) / spread, labels[chosen])
    weight, bias = linear_probe(z, labels, seed=3)
    np.testing.assert_allclose(
        z @ weight.numpy().T + bias.numpy(), model.decision_function((z - mean) / spread), atol=1e-4
    )
