"""What every page of a report has around its content: the head, the style, the way numbers are written."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """Where the templates of this package are found; they extend ``shell.html`` and escape what they are given."""
    templates = Environment(
        loader=PackageLoader("mofe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = lambda fraction: "–" if fraction is None else f"{100 * fraction:.2f}"
    return templates
