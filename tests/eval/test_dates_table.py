"""Columns and published rows of DATES, and the taxonomy."""

from __future__ import annotations

import pytest

from eval.dates_table import (
    AUDIO_MUSIC_COLUMNS,
    COLUMNS,
    SPEECH_COLUMNS,
    known_problems,
    published_rows,
)
from eval.protocol import PROTOCOLS
from eval.registry import entries
from eval.taxonomy import Taxonomy
from tok_core.errors import ConfigError

ORDER = (
    "tokenizer | #Q | kbps | token rate | SDR | SI-SNR | PESQ | UTMOS | DNSMOS-P808 | DNSMOS-P835 "
    "| PLCMOS | STOI | WER | SpkSim"
)


def test_columns_stand_in_the_order_of_dates() -> None:
    assert " | ".join(column.title for column in SPEECH_COLUMNS) == ORDER
    for domain in ("audio", "music"):
        titles = [c.title for c in AUDIO_MUSIC_COLUMNS if c.domain == domain]
        assert titles == ["SDR", "CI-SDR", "SI-SNR", "VISQOL", "SingMOS"]
    worse = [c.title for c in SPEECH_COLUMNS if c.higher_is_better is False]
    assert worse == ["WER"]


def test_our_metrics_of_the_columns_exist_and_point_the_same_way() -> None:
    known = entries()
    found = [c for c in SPEECH_COLUMNS if c.metric in known]
    assert {c.title for c in found} >= {"SDR", "SI-SNR", "PESQ", "UTMOS", "STOI", "SpkSim"}
    for column in found:
        assert known[column.metric].higher_is_better == column.higher_is_better


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_published_rows(table: str) -> None:
    rows = published_rows(table)
    assert rows[0].is_ground_truth and not any(row.is_ground_truth for row in rows[1:])
    keys = {column.key for column in COLUMNS[table]}
    for row in rows:
        assert set(row.values) <= keys
        assert "2506.10274" in row.source
    assert len({(row.tokenizer, row.values.get("codebooks")) for row in rows}) == len(rows)
    assert known_problems(table)


def test_published_speech_belongs_to_a_protocol() -> None:
    rows = published_rows()
    assert {row.protocol for row in rows} == {"dates-speech"} <= set(PROTOCOLS)
    assert rows[0].values["PESQ"] == 4.64 and "kbps" not in rows[0].values
    with pytest.raises(ConfigError, match="did you mean 'speech'"):
        published_rows("spech")


def test_taxonomy() -> None:
    kinds = {row.tokenizer: row.taxonomy for row in published_rows()}
    ours = kinds["WT-SMA-24"]
    assert ours is not None and ours.matches("quantization=SVQ", "domains=music", "streamable=no")
    assert not ours.matches("quantization=RVQ") and not ours.matches("auxiliary=SD")
    with pytest.raises(ConfigError, match=r"quantization 'RVG'.*did you mean"):
        Taxonomy(encoder="CNN", decoder="CNN", quantization="RVG")
    with pytest.raises(ConfigError, match=r"quantization 'RVG'.*did you mean"):
        ours.matches("quantization=RVG")
    with pytest.raises(ConfigError, match="did you mean 'domains'"):
        ours.matches("domain=music")


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_every_published_tokenizer_is_classified_and_can_be_picked(table: str) -> None:
    rows = published_rows(table)
    assert all((row.taxonomy is None) == row.is_ground_truth for row in rows)
    picked = published_rows(table, where=["quantization=SVQ", "domains=music"])
    assert [row.tokenizer for row in picked] == ["Ground truth", "WT-SMA-24"]
    with pytest.raises(ConfigError, match="has quantization=PQ"):
        published_rows(table, where=["quantization=PQ"])


@pytest.mark.parametrize("domain", ["speech", "audio_music"])
def test_published_rows_belong_to_a_protocol(domain: str) -> None:
    from eval.protocol import protocol_named

    assert {protocol_named(row.protocol).sense for row in published_rows(domain)} == {"audio"}
