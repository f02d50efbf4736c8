"""Finds the cause of a stage's failure in its log."""

import re


def exception_in(log: str) -> tuple[str, str]:
    """Class and message of the exception that ended a stage; ("", "") if there is none.

    The message begins with the class, unless that is MofeError.
    """
    raised = re.findall(r"(?m)^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt|Exit))(?:: (.*))?$", log)
    if not raised:
        return "", ""
    kind, message = raised[-1]
    return kind, message if kind == "MofeError" else f"{kind}: {message}".removesuffix(": ")
