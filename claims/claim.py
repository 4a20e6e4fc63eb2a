"""What a claim is: rows that are trained or judged one by one, and findings made of their numbers.

    Claim --rows(seeds, small)--> Row ... --measure--> numbers --findings--> holds / does not hold
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Numbers = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training or judging, at most a quarter of an hour on two cores.

    Args:
        config: plain JSON values, everything that decides the numbers but the seed.
        seed: of the training and of the order of its data.
    """

    config: Mapping[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """Where the row is kept: its seed and a hash of its config.

        Example:
            >>> Row(config={"steps": 3}, seed=0).key
            '0-545356d813e3'
        """
        return f"{self.seed}-{config_hash(self.config)}"


def config_hash(config: Mapping[str, Any]) -> str:
    """Return twelve hexadecimal digits of the SHA-256 of the config as sorted JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a row works.

    Args:
        data: folder that all rows share, for what is painted or spoken once.
        scratch: an empty folder of this row alone, thrown away afterwards.
        device: ``cpu`` or ``cuda``.
    """

    data: Path
    scratch: Path
    device: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A finished row, as its numbers came out of the file."""

    seed: int
    config: Mapping[str, Any]
    numbers: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence of a claim and what became of it.

    Args:
        sentence: what is claimed. numbers: what was measured, as text.
        holds: None where too few rows exist.
    """

    sentence: str
    numbers: str
    holds: bool | None

    @property
    def verdict(self) -> str:
        """``holds``, ``does not hold`` or ``not measured yet``."""
        return {None: "not measured yet", True: "holds", False: "does not hold"}[self.holds]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A paper's claim and how it is shown small.

    Args:
        name: of the module and of the result file. paper: authors, year, arXiv number.
        claim: in one sentence. theirs: their number and where it stands.
        setting: what is trained and judged here, for the document.
        minutes: of a CPU, estimated, for all rows of three seeds but those of the perturbation's
            benchmark; two cores take about half as long.
        rows: of seeds and whether tiny. measure: a row's numbers, plain JSON values.
        findings: of what is measured, always the same sentences.
        draw: the plot of what is measured into a PNG file.
        committed: numbers of a row that a benchmark of this repository measured at the same
            sizes, or None; and the name of the file.
        remarks: what was tried and what the numbers do not say.
    """

    name: str
    paper: str
    claim: str
    theirs: str
    setting: str
    minutes: float
    rows: Callable[[Sequence[int], bool], list[Row]]
    measure: Callable[[Row, Place], Numbers]
    findings: Callable[[Sequence[Measured]], list[Finding]]
    draw: Callable[[Sequence[Measured], Path], None]
    committed: Callable[[Row], tuple[Numbers, str] | None] = field(default=lambda row: None)
    remarks: str = ""

    @property
    def command(self) -> str:
        """What measures this claim alone."""
        return f"make claims ONLY={self.name}"
