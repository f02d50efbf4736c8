"""Texts in the space that a language-image model shares with images: the artifact that ``texts`` writes.

C classes, K negative words, J sets of learned "no" prompts, D features of the backbone, P dimensions of the space.
Embeddings of texts are of length one, in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from safetensors.torch import load, save
from torch import Tensor
from upath import UPath

from mofe.artifacts.texts import TextInfo
from mofe.errors import MofeError
from mofe.storage import locations, writing

TENSORS = "texts.safetensors"


@dataclass(frozen=True, eq=False)
class Texts:
    """What the texts of a run are in the shared space, and the way there from the untouched backbone's embeddings."""

    projection_DP: Tensor
    logit_scale: float
    class_CP: Tensor
    """The classes in the run's own prompts."""
    nice_CP: Tensor | None = None
    """The classes in NegLabel's prompt."""
    negative_KP: Tensor | None = None
    """NegLabel's words, group after group."""
    clipn_no_CP: Tensor | None = None
    """By CLIPN's second text encoder."""
    lsn_yes_CP: Tensor | None = None
    lsn_no_JCP: Tensor | None = None

    def project(self, z_ND: Tensor) -> Tensor:
        """Final embeddings of the untouched backbone in the shared space, not normalised: (N, P) float32."""
        return z_ND.float() @ self.projection_DP

    def tensors(self) -> dict[str, Tensor]:
        """All that is there, to be stored; :meth:`of_tensors` takes it back."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["logit_scale"] = torch.tensor(self.logit_scale, dtype=torch.float64)
        return {name: value.contiguous().clone() for name, value in found.items() if value is not None}

    @classmethod
    def of_tensors(cls, state: Mapping[str, Tensor]) -> Self:
        """The texts that gave ``state``."""
        others = {name: value for name, value in state.items() if name != "logit_scale"}
        return cls(logit_scale=float(state["logit_scale"]), **others)


def write_texts(folder: UPath, info: TextInfo, texts: Texts | None) -> None:
    """Write an artifact: tensors, if there are any, then the manifest."""
    if texts is not None:
        writing.write_bytes(folder / TENSORS, save(texts.tensors()))
    info.write(folder)


def read_texts(uri: str | UPath) -> tuple[TextInfo, Texts | None]:
    """Read an artifact; no texts where the run has no text model.

    Raises:
        MofeError: there is no artifact, or it is damaged.
    """
    folder = locations.resolve(uri)
    info = TextInfo.read(folder)
    if not info.model:
        return info, None
    info.check(folder, TENSORS)
    content = locations.read_bytes(folder / TENSORS, "text embeddings")
    try:
        return info, Texts.of_tensors(load(content))
    except Exception as error:  # safetensors has errors of its own; a TypeError where a tensor is unknown or missing
        raise MofeError(f"{folder / TENSORS} does not hold the texts: {' '.join(str(error).split())}") from error
