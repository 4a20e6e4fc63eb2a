"""Protocols: built-in ones, JSON, illegal values, which differences matter to which metric."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.protocol import LEGAL, PROTOCOLS, Protocol, difference, protocol_named
from tok_core.errors import ConfigError


@pytest.mark.parametrize("name", PROTOCOLS)
def test_built_in_round_trips(name: str, tmp_path: Path) -> None:
    protocol = protocol_named(name)
    assert protocol.source
    assert Protocol.from_json(protocol.to_json()) == protocol
    (tmp_path / "own.json").write_text(protocol.to_json())
    assert protocol_named(str(tmp_path / "own.json")) == protocol


def test_the_protocols_of_the_issue_are_there() -> None:
    wanted = {"adm", "torch-fidelity", "clean-fid", "llamagen", "titok", "dates-speech",
              "vocos-speech", "wavtokenizer"}  # fmt: skip
    assert wanted <= set(PROTOCOLS)


@given(st.sampled_from(sorted(LEGAL)), st.text(min_size=1, max_size=8))
def test_illegal_words_are_sentences(field: str, word: str) -> None:
    plain = {"name": "mine", "sense": "image", field: word}
    if word in LEGAL[field]:
        return
    with pytest.raises(ConfigError, match="legal are"):
        Protocol.from_dict(plain)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "256"])
@pytest.mark.parametrize("field", ["samples", "size", "sample_rate"])
def test_illegal_numbers_are_sentences(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match="whole number above 0"):
        Protocol.from_dict({"name": "mine", "sense": "image", field: value})


def test_unknown_field_and_name_get_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'crop'"):
        Protocol.from_dict({"name": "a", "sense": "image", "crops": "adm"})
    with pytest.raises(ConfigError, match="did you mean 'titok'"):
        protocol_named("titoc")
    with pytest.raises(ConfigError, match="cannot be read"):
        protocol_named("nowhere.json")


def test_differences_depend_on_the_kind() -> None:
    a = protocol_named("photographs")
    other = a.changed(precision="float64")
    assert [one.field for one in difference(a, other)] == ["precision"]
    assert not difference(a, other, kind="paired")
    assert [one.field for one in difference(a, other, kind="distribution")] == ["precision"]
    cropped = a.changed(crop="lanczos-1.125")
    assert str(difference(a, cropped, kind="paired")[0]) == (
        "crop is adm in one and lanczos-1.125 in the other"
    )
    # What a protocol is called is no difference.
    assert not difference(a, a.changed(name="other", source="elsewhere"))
