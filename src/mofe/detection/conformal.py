"""Conformal p-values, which measure how unusual an image is among known images that the model was not trained on.

Let s₁ … s_n be the scores of the validation images and s that of a new image, higher = more in-distribution. The
conformal p-value is p = (1 + #{i: s_i ≤ s}) / (n + 1). If the new image is exchangeable with the validation images
(drawn as they were), then P(p ≤ α) ≤ α for every α. Therefore rejection at p ≤ α rejects at most a share α of known
images (Vovk et al., 2005; for OOD detection Bates et al., 2023). The probability includes the draw of the validation
images. There is no guarantee for unknown images.
"""

import numpy as np
from numpy.typing import ArrayLike

from mofe.arguments import array
from mofe.errors import MofeError


def conformal_p_values(scores_B: ArrayLike, validation_n: ArrayLike) -> np.ndarray:
    """p-values (B,) in [1 / (n + 1), 1] of new images; float64.

    Args:
        scores_B: scores of the new images.
        validation_n: scores of known images that the model was not trained on and that are not in its bank.

    Raises:
        MofeError: a score is not finite, or there are no scores of known images.
    """
    ordered_n = np.sort(array("scores of validation images", validation_n, 1)).astype(np.float64)
    scores_B = np.asarray(array("scores", scores_B), np.float64)
    if not len(ordered_n):
        raise MofeError("without scores of validation images there are no p-values")
    if not (np.isfinite(ordered_n).all() and np.isfinite(scores_B).all()):
        raise MofeError("a score is not finite: p-values need finite scores of new and of validation images")
    below_B = np.searchsorted(ordered_n, scores_B, side="right")
    return (1 + below_B) / (1 + len(ordered_n))
