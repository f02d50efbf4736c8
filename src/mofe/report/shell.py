"""Parts that all pages of a report share: head, style, and format of numbers."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def environment() -> Environment:
    """Create the environment of this package's templates, which extend ``shell.html`` and escape their values."""
    templates = Environment(
        loader=PackageLoader("mofe.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = percent
    return templates


def percent(fraction: float | None) -> str:
    """Format a fraction in percent; – for None."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"
