"""``python -m eval`` is the same as ``tessera eval``."""

from eval.cli import main

main()
