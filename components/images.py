"""The container image of each stage.

The YAML in the repository has plain version tags. ``mofe run`` and ``mofe compile`` replace them by content digests
(``mofe.runners.digests``).
"""

from mofe import __version__

REGISTRY = "ghcr.io/mofe"


def image(target: str) -> str:
    """Image reference of a target of docker/Dockerfile: data, partition, train, score or report."""
    return f"{REGISTRY}/mofe-{target}:{__version__}"
