"""``python -m mofe`` is ``mofe``."""

from mofe.cli import main

main()
