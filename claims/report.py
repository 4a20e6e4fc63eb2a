"""Writes docs/claims.md and the plots from the kept rows alone; what is missing is said to be."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from claims.claim import Claim, Finding, Measured
from claims.harness import Results, Session
from tok_core.atomic_write import write_bytes

HEAD = """# Claims

Written by `make claims` from `claims/results`, never by hand: what papers of this suite claim,
shown with small models on data that need no download. These are tiny networks, so a claim that
does not hold here may hold at its own size, and the other way round. Numbers are means ± standard
deviations over seeds, and one rule judges all: a difference *holds* where at least three seeds were
measured, every one of them shows it, and its mean is larger than its standard deviation; a
statement of equality where the mean lies within the limit that it names. `make claims` measures
what is missing and goes on where it was stopped. No claim is dropped and no seed is picked.
"""


def write(
    claims: Sequence[Claim], session: Session, document: Path, *, drawn: Sequence[Claim] = ()
) -> None:
    """Write the document, and the plots of the claims to be drawn where anything is measured.

    Args:
        claims: all of the document. session: where results lie and which seeds count.
        document: Markdown file. drawn: claims whose plots are made anew.
    """
    table = ["| paper | claim | their number | here | verdict | command |", "|---" * 6 + "|"]
    sections = []
    for claim in claims:
        rows = claim.rows(session.seeds, session.small)
        results = Results(session.results, claim.name)
        found = results.measured(rows)
        findings = claim.findings(found)
        table += _lines(claim, findings)
        plot = session.results / f"{claim.name}.png"
        if claim in drawn:
            _draw(claim, found, plot)
        where = os.path.relpath(plot, document.parent) if plot.is_file() else None
        sections.append(_section(claim, findings, len(found), len(rows),
                                 results.machines(rows), where))  # fmt: skip
    text = "\n".join([HEAD, *table, "", *sections])
    write_bytes(document, text.encode(), force=True)


def _lines(claim: Claim, findings: Sequence[Finding]) -> list[str]:
    first = (claim.paper, claim.claim, claim.theirs)
    lines = []
    for number, finding in enumerate(findings):
        left = first if number == 0 else ("", "", "")
        command = f"`{claim.command}`" if number == 0 else ""
        cells = (*left, f"{finding.sentence}: {finding.numbers}", finding.verdict, command)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _section(
    claim: Claim, findings: Sequence[Finding], there: int, wanted: int,
    machines: Sequence[str], plot: str | None,
) -> str:  # fmt: skip
    lines = [f"## {claim.name.replace('_', ' ')}", "", f"{claim.claim} ({claim.paper})", "",
             claim.setting, ""]  # fmt: skip
    lines += [f"- {one.sentence}: **{one.verdict}** ({one.numbers})" for one in findings]
    lines += ["", f"{there} of {wanted} rows are measured: `{claim.command}`."]
    if machines:
        lines += ["", f"Measured on or taken over from: {'; '.join(machines)}."]
    if claim.remarks:
        lines += ["", claim.remarks]
    if plot is not None:
        lines += ["", f"![{claim.name}]({plot})"]
    return "\n".join([*lines, ""])


def _draw(claim: Claim, found: Sequence[Measured], path: Path) -> None:
    if not found:
        path.unlink(missing_ok=True)
        return
    try:
        import matplotlib
    except ImportError:
        print(f"no plot of {claim.name}: matplotlib is not installed (it comes with 'demo')")
        return
    matplotlib.use("Agg")
    claim.draw(found, path)
