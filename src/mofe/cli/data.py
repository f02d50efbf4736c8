"""``mofe data``: the demo's images, and WordNet."""

from mofe.cli.places import check_places


def digits(to: str) -> None:
    """Write the demo's images to folders: handwritten digits, letters and patches of photographs.

    Args:
        to: folder to create.
    """
    from mofe.data.digits import write_digits

    check_places("--to", to)
    print(f"wrote {to}" if write_digits(to) else f"{to} is already complete")


def wordnet() -> None:
    """Find WordNet on this machine, or download it."""
    from mofe.partitioning.wordnet import ensure_wordnet

    print(f"WordNet is at {ensure_wordnet()}")
