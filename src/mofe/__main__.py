"""``python -m mofe`` is ``mofe``."""

from mofe.cli.main import main

main()
