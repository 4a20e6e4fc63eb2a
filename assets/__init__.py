"""Small files that travel with the package: photographs, configs, the trained example model."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path


def asset_path(name: str) -> Path:
    """Return the path of a packaged file or folder, e.g. ``asset_path("images/coffee.webp")``.

    Raises:
        FileNotFoundError: the installed package holds no such asset.
    """
    path = Path(str(files(__name__).joinpath(*name.split("/"))))
    if not path.exists():
        raise FileNotFoundError(f"the package holds no asset '{name}'; looked for {path}")
    return path


def photograph_split() -> dict[str, tuple[str, ...]]:
    """Return {"held_out": names, "train": names} of the photographs, fixed for the project.

    Held-out photographs are for measuring and showing only; nothing is ever trained on them.
    """
    split = json.loads(asset_path("images/SPLIT.json").read_text(encoding="utf-8"))
    return {part: tuple(names) for part, names in split.items()}


def photograph_path(name: str) -> Path:
    """Return the file of one photograph of the split, e.g. ``photograph_path("coffee")``."""
    return asset_path(f"images/{name}.webp")
