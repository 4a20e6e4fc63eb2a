"""The registry: every module's entries, names, nearest names, what can be built."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval import registry
from eval.metric_building import build, families
from eval.protocol import protocol_named
from eval.readiness import readiness
from tok_core.errors import ConfigError


def test_every_module_with_entries_is_listed() -> None:
    folder = Path(registry.__file__).parent
    with_entries = {
        file.stem for file in folder.glob("*.py")
        if "\nENTRIES: tuple[MetricEntry, ...]" in file.read_text()
    }  # fmt: skip
    # Rates are measured in every run, so nobody needs to name them.
    assert with_entries - {"rates"} == set(registry.MODULES)


def test_defaults_and_aliases_exist() -> None:
    known = registry.entries()
    for names in registry.DEFAULTS.values():
        assert set(names) <= set(known)
    assert set(registry.ALIASES.values()) <= set(known)
    assert set(registry.DATES) <= set(known)


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'ssim'"):
        registry.entry_named("sssim")
    assert registry.entry_named("LPIPS").name == "lpips/vgg"


def test_sense_is_checked() -> None:
    with pytest.raises(ConfigError, match="metric 'pesq' is for audio"):
        registry.metrics_named(["pesq"], "image")
    assert [one.name for one in registry.metrics_named(["psnr", "psnr"], "image")] == ["psnr"]


def test_fid_family_is_one_metric() -> None:
    rows = registry.metrics_named(["psnr", "rfid", "ssim", "is"], "image")
    assert [tuple(one.name for one in group) for group in families(rows)] == [
        ("psnr",), ("rfid", "is"), ("ssim",),
    ]  # fmt: skip


def test_a_metric_of_any_rate_gets_the_protocols() -> None:
    protocol = protocol_named("vocos-speech")
    assert build([registry.entry_named("stoi")], protocol, {}).sample_rate == 24_000


def test_readiness_names_what_is_missing() -> None:
    rows = {row.name: row for row in readiness()}
    assert rows["psnr"].state == "ready"
    for row in rows.values():
        assert (row.state == "ready") == (not row.reason)
        if row.state == "missing weights":
            assert "TESSERA_WEIGHTS" in row.reason or "python -m" in row.reason
