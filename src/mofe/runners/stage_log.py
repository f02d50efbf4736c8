"""Why a stage failed, from what it printed."""

import re


def exception_in(log: str) -> tuple[str, str]:
    """The kind of the exception that ended a stage, and its message, which tells the kind unless it is our own."""
    raised = re.findall(r"(?m)^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt|Exit))(?:: (.*))?$", log)
    if not raised:
        return "", ""
    kind, message = raised[-1]
    return kind, message if kind == "MofeError" else f"{kind}: {message}".removesuffix(": ")
