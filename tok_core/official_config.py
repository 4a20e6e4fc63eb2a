"""The config that lies beside an official checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tok_core.errors import WeightsError


def read_official_config(file: str | Path) -> dict[str, Any]:
    """Return a JSON object; WeightsError where the file holds none.

    Example:
        >>> read_official_config("config.json")["scales"]  # doctest: +SKIP
        [1, 2, 4]
    """
    try:
        config = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"cannot read the config {file} ({error}); give a JSON file.") from None
    if not isinstance(config, dict):
        raise WeightsError(f"the config {file} is no JSON object; give the official one.")
    return config
