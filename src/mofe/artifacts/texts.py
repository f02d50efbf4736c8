"""Texts about the classes that a language-image model embeds."""

from typing import Any, ClassVar

from mofe.artifacts.backbone import Backbone
from mofe.artifacts.manifest import Manifest

LOCAL_MODEL = "local-dir:"
"""Prefix of the name of a text model that lies in a folder; the rest of the name is its path or URI."""


class TextInfo(Manifest):
    """``texts.json``: the texts that a language-image model embeds; :mod:`mofe.detection.texts` has the embeddings.

    ``names`` and ``negatives`` are empty if the run has no such model.
    """

    file_name: ClassVar[str] = "texts.json"
    what: ClassVar[str] = "set of texts"
    digest: str
    """Digest of the files that hold model, weights and given embeddings; "" if there are none."""
    backbone: Backbone
    """Backbone whose embeddings are comparable with the texts."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """Names of the classes in the prompts."""
    negatives: tuple[str, ...]
    """Words that are far from the classes, group after group."""
    parameters: dict[str, Any]
    """Pipeline parameters that the texts depend on."""

    @property
    def model(self) -> str:
        """Name of the model in open_clip; "" for none."""
        return str(self.parameters["text_model"])
