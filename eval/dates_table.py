"""The tables of DATES: their columns in order and their published rows.

"Discrete Audio Tokens: More Than a Survey!", arXiv 2506.10274, has one table for speech and one for
audio and music. A row of ours with these columns stands beside theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from eval.taxonomy import Taxonomy
from tok_core.errors import ConfigError, nearest

GROUND_TRUTH = "Ground truth"
TABLES = ("speech", "audio_music")
_PACKAGE = "eval"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a DATES table.

    Args:
        title: as DATES prints it. key: of `PublishedRow.values`.
        metric: our metric's name; another variant of a network is named after a slash. Empty where
            we measure nothing of the kind, so that the cell is "-".
        higher_is_better: None for what describes the row. digits: after the point.
        domain: ``speech``, ``audio`` or ``music``.
    """

    title: str
    key: str
    metric: str
    higher_is_better: bool | None
    digits: int = 2
    domain: str = "speech"


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """One row as published; nothing of it was measured here.

    Args:
        tokenizer: as DATES abbreviates it: model, domains trained on (S, M, A), kHz.
        values: numbers by `Column.key`; a key without a published number is missing.
        protocol: name of the protocol they belong to. source: where they stand.
        taxonomy: what kind of tokenizer it is; None for ground truth.
    """

    tokenizer: str
    values: Mapping[str, float]
    protocol: str
    source: str
    taxonomy: Taxonomy | None = None

    @property
    def is_ground_truth(self) -> bool:
        """Whether the originals were scored against themselves; such a row is not ranked."""
        return self.tokenizer == GROUND_TRUTH


def _column(title: str, key: str, metric: str, higher: bool | None, **more: Any) -> Column:
    return Column(title=title, key=key, metric=metric, higher_is_better=higher, **more)


ROW_COLUMNS = (
    _column("tokenizer", "tokenizer", "tokenizer", None),
    _column("#Q", "codebooks", "num_codebooks", None, digits=0),
    _column("kbps", "kbps", "kbps/nominal", None),
    _column("token rate", "token_rate", "token_rate", None, digits=0),
)
SPEECH_COLUMNS = (
    *ROW_COLUMNS,
    _column("SDR", "SDR", "sdr", True),
    _column("SI-SNR", "SI-SNR", "si_sdr", True),  # SI-SDR with the means removed
    _column("PESQ", "PESQ", "pesq/wb", True),
    _column("UTMOS", "UTMOS", "utmos", True),
    _column("DNSMOS-P808", "DNSMOS_P808", "dnsmos/p808", True),
    _column("DNSMOS-P835", "DNSMOS_P835", "dnsmos/p835", True),
    _column("PLCMOS", "PLCMOS", "plcmos", True),
    _column("STOI", "STOI", "stoi", True),
    _column("WER", "WER", "wer", False),
    _column("SpkSim", "speaker_similarity", "speaker_similarity", True),
)
AUDIO_MUSIC_COLUMNS = (
    *ROW_COLUMNS,
    *(
        _column(title, f"{domain}_{title}", metric, True, domain=domain)
        for domain in ("audio", "music")
        for title, metric in (
            ("SDR", "sdr"), ("CI-SDR", ""), ("SI-SNR", "si_sdr"), ("VISQOL", ""), ("SingMOS", ""),
        )
    ),
)  # fmt: skip
COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "speech": SPEECH_COLUMNS, "audio_music": AUDIO_MUSIC_COLUMNS,
}  # fmt: skip


def published_rows(table: str = "speech", *, where: Sequence[str] = ()) -> tuple[PublishedRow, ...]:
    """Return the rows of a DATES table in their order, ground truth first.

    Args:
        table: ``speech`` or ``audio_music``.
        where: what the tokenizers must be, each ``axis=word`` of `Taxonomy`; ground truth stays.

    Raises:
        ConfigError: another table, an unknown axis or word, or no such tokenizer.

    Example:
        >>> published_rows()[0].values["PESQ"]
        4.64
    """
    plain, kinds = _read(table), _file("taxonomy")["tokenizers"]
    rows = tuple(
        PublishedRow(
            tokenizer=row["tokenizer"], protocol=plain["protocol"],
            source=f"{plain['title']}; {plain['source']}",
            values={
                key: value for key, value in row.items()
                if key != "tokenizer" and value is not None
            },
            taxonomy=Taxonomy(**kinds[name]) if (name := row["tokenizer"]) in kinds else None,
        )
        for row in plain["rows"]
    )  # fmt: skip
    kept = tuple(row for row in rows if row.taxonomy is None or row.taxonomy.matches(*where))
    if all(row.is_ground_truth for row in kept):
        raise ConfigError(f"no tokenizer of DATES table '{table}' has {' and '.join(where)}.")
    return kept


def known_problems(table: str = "speech") -> tuple[str, ...]:
    """Return sentences about published entries that are not to be trusted."""
    return tuple(_read(table)["known_problems"])


def _read(table: str) -> Any:
    if table not in TABLES:
        raise ConfigError(
            f"DATES table '{table}' is unknown; legal are {', '.join(TABLES)}"
            f"{nearest(table, TABLES)}"
        )
    return _file(table)


def _file(name: str) -> Any:
    path = files(_PACKAGE).joinpath("published", f"dates_{name}.json")
    return json.loads(path.read_text(encoding="utf-8"))
