"""Every claim as small as it goes: all rows of a seed, the document, and a second call."""

from __future__ import annotations

from pathlib import Path

import pytest

from claims import report
from claims.catalogue import CLAIMS
from claims.claim import Claim
from claims.harness import Results, Session, measure

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_small(claim: Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(
        results=tmp_path / "results", work=tmp_path / "work", seeds=(0,), small=True
    )
    assert measure(claim, session) == []
    rows = claim.rows((0,), True)
    results = Results(session.results, claim.name)
    assert len(results.measured(rows)) == len(rows)
    before = results.path.read_bytes()
    assert measure(claim, session) == []  # nothing is left to do
    assert results.path.read_bytes() == before
    report.write([claim], session, tmp_path / "claims.md", drawn=[claim])
    text = (tmp_path / "claims.md").read_text()
    assert f"{len(rows)} of {len(rows)} rows are measured" in text
    assert any(finding.numbers != "-" for finding in claim.findings(results.measured(rows)))
    assert (tmp_path / "results" / f"{claim.name}.png").stat().st_size > 1000
