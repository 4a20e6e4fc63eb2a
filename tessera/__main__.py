"""``python -m tessera`` is the same as ``tessera``."""

from tessera.cli import main

main()
