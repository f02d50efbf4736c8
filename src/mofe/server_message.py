"""What a server said when it refused, of an exception of one of its clients (Kubeflow's, Kubernetes')."""

import json
from contextlib import suppress
from typing import Any


def in_one_line(error: Any) -> str:
    """The message in the answer's body; else the body, or what the exception says. At most 300 characters."""
    text = str(getattr(error, "body", "") or getattr(error, "message", "") or error)
    with suppress(ValueError):
        said = json.loads(text)
        text = str(said.get("message") or said.get("error_message") or text) if isinstance(said, dict) else text
    return " ".join(text.split())[:300]
