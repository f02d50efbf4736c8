"""The detector as an MLflow model, for ``mlflow models serve`` and ``mlflow.pyfunc.load_model``.

MLflow stores a copy of this file with the model and runs it when the model is loaded. A row of the input is the content
of an image file, in the column ``image``; in JSON it is base64.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from PIL import Image

from mofe.data.images import decode
from mofe.errors import MofeError
from mofe.inference.detector import load_detector


class DetectorModel(PythonModel):
    """Names the class of each image, and says whether the image is known."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the detector from the model's configuration, or else the one stored with the model."""
        self.detector = load_detector((context.model_config or {}).get("detector") or context.artifacts["detector"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One row per image: ``known``, ``class``, ``expert``, ``p_value`` and every score, as in ``mofe detect``.

        Raises:
            MofeError: a row is not an image; the message names the row and the reason.
        """
        scores = self.detector.score(_decode(model_input["image"]))
        prediction = {
            "known": scores.values["knn"] >= self.detector.thresholds["knn"],
            "class": [self.detector.classes[c] for c in scores.predicted_B],
            "expert": scores.expert_B,
            "p_value": self.detector.p_values(scores),
        }
        return pd.DataFrame({**prediction, **scores.values})


def _decode(contents: Iterable[bytes]) -> Iterator[Image.Image]:
    """Decode each image when it is needed, so that only one batch is in memory."""
    for row, content in enumerate(contents):
        try:
            yield decode(content)
        except (OSError, ValueError) as error:
            raise MofeError(f"row {row} cannot be scored: {error}") from error


set_model(DetectorModel())
