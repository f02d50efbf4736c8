"""Loading of a backbone's weights from files of many origins: under a prefix, beside heads, in nested mappings.

The names in a file are compared with those of the model. A training framework puts prefixes before them
(``module.backbone.``), and stores other networks beside (``student.``): one prefix is found and printed.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from timm.models import load_state_dict
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from mofe.errors import MofeError, in_one_line
from mofe.storage import locations
from mofe.storage.weights_file import check_weights_file

log = logging.getLogger(__name__)

HEADS = re.compile(r"(head|head_dist|fc|classifier|decoder|decoder_\w+)\.|decoder_pos_embed$")
"""Names of what a backbone has no use for: heads of classes, and the decoder of a masked autoencoder."""
SHOWN = 3
"""Names of tensors that a message lists; the rest are counted."""


def load_weights(model: VisionTransformer, file: Path, shown: str, name: str) -> None:
    """Load a file of weights into a backbone. Which prefix was removed, and what was left out, is logged.

    Args:
        model: backbone without a head, which is changed.
        file: local file of plain tensors, which is never unpickled otherwise.
        shown: path or URI of the file, for messages.
        name: name of the model, for messages.

    Raises:
        MofeError: the file holds no weights, or not those of this architecture; missing, unexpected and
            differently shaped tensors are named.
    """
    try:
        tensors = _flat(load_state_dict(str(file), device="cpu", weights_only=True))
    except Exception as error:  # torch, safetensors and timm raise different types
        raise MofeError(f"the weights {shown} cannot be read, and do not fit {name}: {in_one_line(error)}") from error
    prefix, state = _under_prefix(tensors, model, shown)
    misfit = _misfit(state, model)
    if misfit:
        below = f" (read below the prefix {prefix!r})" if prefix else ""
        raise MofeError(f"the weights {shown} do not fit {name}{below}: {misfit}")
    model.load_state_dict(state)
    if prefix:
        others = [key for key in tensors if not key.startswith(prefix)]
        rest = f"; not used: {_some(others)}" if others else ""
        log.warning("the weights %s: read the tensors below %r%s", shown, prefix, rest)


def _flat(content: Any, above: str = "") -> dict[str, Tensor]:
    """The tensors of nested mappings, by names joined with dots; everything else is left out."""
    found: dict[str, Tensor] = {}
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, Tensor):
            found[f"{above}{key}"] = value
        else:
            found |= _flat(value, f"{above}{key}.")
    return found


def _under_prefix(tensors: Mapping[str, Tensor], model: VisionTransformer, shown: str) -> tuple[str, dict[str, Tensor]]:
    """The prefix of the backbone's tensors in the file, and these tensors under the model's names.

    Every vision transformer here has a class token, so its name shows the prefixes to try. Of a student and its
    teacher, the teacher is read: it is the one that self-distillation evaluates and publishes.
    """
    plain = _converted(tensors, model)
    if "cls_token" in plain or not _misfit(plain, model):
        return "", plain
    below = {}
    for prefix in (key.removesuffix("cls_token") for key in tensors if key.endswith(".cls_token")):
        own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        below[prefix] = _converted(own, model)
    fitting = [prefix for prefix, state in below.items() if not _misfit(state, model)] or list(below)
    if len(fitting) > 1:
        fitting = [prefix for prefix in fitting if re.search(r"(^|\.)teacher\.", prefix)] or fitting
    if len(fitting) > 1:
        raise MofeError(
            f"the weights {shown} hold {len(fitting)} backbones, below {_some(fitting)}: save one of them in a file of "
            "its own"
        )
    return (fitting[0], below[fitting[0]]) if fitting else ("", plain)


def _converted(tensors: Mapping[str, Tensor], model: VisionTransformer) -> dict[str, Tensor]:
    """The tensors under timm's names and of the model's sizes, without heads; unchanged if timm cannot convert them."""
    try:
        state = checkpoint_filter_fn(dict(tensors), model)
    except Exception:  # whatever a foreign layout makes of it; the names then show what it is
        state = dict(tensors)
    return {key: value for key, value in state.items() if not HEADS.match(key)}


def _misfit(state: Mapping[str, Tensor], model: VisionTransformer) -> str:
    """Mismatches in words: tensors that are missing, unexpected or of another shape; "" if there are none."""
    wanted = model.state_dict()
    missing, unexpected = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    shapes = [
        f"{key} is {'×'.join(map(str, state[key].shape))} instead of {'×'.join(map(str, wanted[key].shape))}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    parts = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return "; ".join(f"{len(names)} {word}: {_some(names)}" for word, names in parts if names)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


@contextmanager
def local_weights(uri: str) -> Iterator[Path]:
    """Yield a local path of a file of weights. Its reader must read plain tensors only, never pickles.

    Raises:
        MofeError: there is no file at ``uri``, or it does not hold weights: see :func:`check_weights_file`.
    """
    path = locations.resolve(uri)
    check_weights_file(path)
    if locations.is_local(path):
        yield Path(path.path)
        return
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / path.name
        local.write_bytes(locations.read_bytes(path, "weights file"))
        yield local
