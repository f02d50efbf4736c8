"""Embeddings of texts in the space of a language-image model: the artifact that stage ``texts`` writes.

C classes, K negative words, J sets of learned "no" prompts, D features of the backbone, P dimensions of the space.
Embeddings of texts have length one and are in float32.
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
    """Embeddings of a run's texts, and the projection of the pre-trained backbone's embeddings into their space."""

    projection_DP: Tensor
    logit_scale: float
    class_CP: Tensor
    """Embeddings of the classes in the run's own prompts."""
    nice_CP: Tensor | None = None
    """Embeddings of the classes in NegLabel's prompt."""
    negative_KP: Tensor | None = None
    """Embeddings of NegLabel's words, group after group."""
    clipn_no_CP: Tensor | None = None
    """Embeddings of the "no" prompts by CLIPN's second text encoder."""
    lsn_yes_CP: Tensor | None = None
    lsn_no_JCP: Tensor | None = None

    def project(self, z_ND: Tensor) -> Tensor:
        """Project the pre-trained backbone's final embeddings into the texts' space, not normalised: (N, P) float32."""
        return z_ND.float() @ self.projection_DP

    def tensors(self) -> dict[str, Tensor]:
        """The embeddings that are not None, to be stored; :meth:`of_tensors` reverses it."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["logit_scale"] = torch.tensor(self.logit_scale, dtype=torch.float64)
        return {name: value.contiguous().clone() for name, value in found.items() if value is not None}

    @classmethod
    def of_tensors(cls, state: Mapping[str, Tensor]) -> Self:
        """Make the texts whose :meth:`tensors` are ``state``."""
        others = {name: value for name, value in state.items() if name != "logit_scale"}
        return cls(logit_scale=float(state["logit_scale"]), **others)


def write_texts(folder: UPath, info: TextInfo, texts: Texts | None) -> None:
    """Write the artifact: tensors, if there are any, then the manifest."""
    if texts is not None:
        writing.write_bytes(folder / TENSORS, save(texts.tensors()))
    info.write(folder)


def read_texts(uri: str | UPath) -> tuple[TextInfo, Texts | None]:
    """Read the artifact; without a text model there are no texts.

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
    except Exception as error:  # safetensors has its own classes of errors; TypeError: unknown or missing tensor
        raise MofeError(f"{folder / TENSORS} does not hold the texts: {' '.join(str(error).split())}") from error
