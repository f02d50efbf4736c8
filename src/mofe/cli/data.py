"""``mofe data``: what the demo and the partition read."""

from mofe.cli.places import check_places


def digits(to: str) -> None:
    """Write the data of the demo as image folders: handwritten digits, letters, patches of photographs.

    Args:
        to: folder to make.
    """
    from mofe.data.digits import write_digits

    check_places("--to", to)
    print(f"wrote {to}" if write_digits(to) else f"{to} is complete already")


def wordnet() -> None:
    """Find WordNet on this machine, or fetch it."""
    from mofe.partitioning.wordnet import ensure_wordnet

    print(f"WordNet is at {ensure_wordnet()}")
