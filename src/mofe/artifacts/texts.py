"""What a language-image model was asked about the classes."""

from typing import Any, ClassVar

from mofe.artifacts.backbone import Backbone
from mofe.artifacts.manifest import Manifest

LOCAL_MODEL = "local-dir:"
"""What the name of a text model begins with if it lies in a folder; the rest is its path or URI."""


class TextInfo(Manifest):
    """``texts.json``: what a language-image model was asked to embed; the embeddings are :mod:`mofe.detection.texts`.

    Names and negatives are empty where there is no such model.
    """

    file_name: ClassVar[str] = "texts.json"
    what: ClassVar[str] = "set of texts"
    digest: str
    """Of the files that model, weights and given embeddings are read from; "" where they are not files."""
    backbone: Backbone
    """Whose embeddings are comparable with the texts."""
    classes: tuple[str, ...]
    names: tuple[str, ...]
    """The classes as the prompts call them."""
    negatives: tuple[str, ...]
    """Words that are far from the classes, group after group."""
    parameters: dict[str, Any]
    """Of the pipeline, that decided what is in it."""

    @property
    def model(self) -> str:
        """As open_clip calls it; "" for none."""
        return str(self.parameters["text_model"])
