"""Which container image each stage runs in.

The YAML in the repository carries plain version tags; ``mofe run`` and ``mofe compile`` put content digests in their
place (``mofe.runners.digests``).
"""

from mofe import __version__

REGISTRY = "ghcr.io/mofe"


def image(target: str) -> str:
    """The reference of a target of docker/Dockerfile: data, partition, train, score or report."""
    return f"{REGISTRY}/mofe-{target}:{__version__}"
