"""A hook of mkdocs.yml that fails the build if a page loads something from another host."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

LOADS = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src"), ("link", "href")}
"""Attributes whose address a browser loads without a click."""
NOT_LOADED = {"canonical", "next", "prev", "alternate"}
"""Kinds of <link> that a browser does not load."""
ELSEWHERE = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"(?:@import\s*|url\()\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


class Loads(HTMLParser):
    """Collects the addresses on other hosts that a page loads when it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record each address of an attribute in LOADS that is on another host."""
        values = dict(attrs)
        if tag == "link" and values.get("rel") in NOT_LOADED:
            return
        for name, value in attrs:
            if (tag, name) in LOADS and value and ELSEWHERE.match(value):
                self.external.append(value)
        if "mermaid" in (values.get("class") or "").split():
            self.external.append("mermaid, which the theme loads from unpkg.com")
        self.external += IN_STYLES.findall(values.get("style") or "")


def external_loads(site: Path) -> list[str]:
    """Every address on another host that the built site loads, as ``page: address``."""
    found = []
    for page in sorted(site.rglob("*.html")):
        parser = Loads()
        parser.feed(page.read_text("utf-8"))
        found += [f"{page.relative_to(site)}: {address}" for address in parser.external]
    for style in sorted(site.rglob("*.css")):
        found += [f"{style.relative_to(site)}: {address}" for address in IN_STYLES.findall(style.read_text("utf-8"))]
    return found


def on_post_build(config: Any) -> None:
    """Check the built site.

    Raises:
        SystemExit: a page loads something from another host.
    """
    if found := external_loads(Path(config["site_dir"])):
        raise SystemExit("the site must not load anything from another host:\n" + "\n".join(found))
