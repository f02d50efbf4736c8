"""Why a stage failed, from what it printed."""

import re


def exception_in(log: str) -> str:
    """The message of the exception that ended a stage, with its kind unless that is our own; "" if none did."""
    raised = re.findall(r"(?m)^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt|Exit))(?:: (.*))?$", log)
    if not raised:
        return ""
    kind, message = raised[-1]
    return message if kind == "MofeError" else f"{kind}: {message}".removesuffix(": ")
