"""What commands print: a progress bar and notes on stderr, a table or JSON on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tessera.files import Plan
from tessera.pipeline import Report, Row
from tok_core import command_line

# Column heading and number format by the key of a row; keys that are not here stay in the JSON.
COLUMNS: dict[str, tuple[str, str]] = {
    "source": ("file", "s"),
    "target": ("becomes", "s"),
    "size": ("size", "s"),
    "inputs": ("tiles", "d"),
    "tokens": ("tokens", "d"),
    "bytes": ("bytes", "d"),
    "bits_per_pixel": ("bits/pixel", ".4f"),
    "channels": ("channels", "d"),
    "tokens_per_second": ("tokens/s", ".1f"),
    "kbit_per_second": ("kbit/s", ".3f"),
    "psnr": ("PSNR dB", ".2f"),
    "ssim": ("SSIM", ".4f"),
    "mel_distance": ("mel distance", ".3f"),
    "si_sdr": ("SI-SDR dB", ".2f"),
    "stoi": ("STOI", ".3f"),
    "pesq": ("PESQ", ".2f"),
    "decoder_calls": ("decoder calls", "d"),
    "output_bytes": ("output bytes", "d"),
}
MOST_ROWS = 24


def say(sentence: str) -> None:
    """Print a note for people, on stderr."""
    command_line.say(sentence)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; infinite figures (a perfect PSNR) become null."""
    print(json.dumps(finite(value), indent=2))


def finite(value: Any) -> Any:
    """Return the value with infinite and undefined numbers as None, which JSON can say."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


def print_table(title: str, rows: Sequence[Row], columns: Mapping[str, tuple[str, str]]) -> None:
    """Print rows as one aligned table, with the columns that any row fills."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    used = [key for key in columns if any(row.get(key) is not None for row in rows)]
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    for key in used:
        text = columns[key][1] == "s"
        table.add_column(columns[key][0], justify="left" if text else "right",
                         overflow="fold")  # fmt: skip
    for row in rows:
        table.add_row(*(_cell(row.get(key), columns[key][1]) for key in used))
    width = None if sys.stdout.isatty() else 160
    Console(width=width, highlight=False, markup=False).print(table)


def _cell(value: Any, form: str) -> str:
    if value is None:
        return "-"
    return str(value) if form == "s" else format(round(value) if form == "d" else value, form)


def mean_row(rows: Sequence[Row]) -> Row:
    """Return the mean of every figure over the rows that have it."""
    mean: Row = {"source": f"mean of {len(rows)}"}
    for key, (_, form) in COLUMNS.items():
        values = [row[key] for row in rows if row.get(key) is not None]
        if form != "s" and values:
            mean[key] = sum(values) / len(values)
    return mean


def finish(report: Report, plan: Plan, *, as_json: bool, verb: str, facts: Row) -> int:
    """Print what a command did and return its exit code.

    Args:
        report: of the pipeline.
        plan: with the outputs that existed.
        as_json: JSON on stdout instead of a table.
        verb: in the past tense, such as ``"encoded"``.
        facts: further values for the JSON (model, device).
    """
    if as_json:
        skipped = [str(job.target) for job in plan.existing]
        print_json({**facts, **report.to_json(), "left_alone": skipped})
    elif report.rows:
        shown = list(report.rows[:MOST_ROWS])
        if len(report.rows) > MOST_ROWS:
            say(f"the table shows the first {MOST_ROWS} of {len(report.rows)} files")
        if len(report.rows) > 1:
            shown.append(mean_row(report.rows))
        print_table("", shown, COLUMNS)
    for row in report.rows:
        for note in row.get("notes") or ():
            say(f"{row['source']}: {note}")
    for path, error in report.failures:
        say(error if str(path) in error else f"{path}: {error}")
    if plan.existing:
        say(f"left {len(plan.existing)} existing outputs alone (--force overwrites them)")
    _summary(report, len(plan.jobs), verb)
    return report.exit_code


def _summary(report: Report, total: int, verb: str) -> None:
    done = f"{verb} {len(report.rows)} of {total} files in {report.seconds:.1f} s"
    if report.rows:
        done += (
            f": {report.files_per_second:.1f} files/s; the model alone makes "
            f"{report.model_files_per_second:.1f} files/s"
        )
    say(done)
    if report.stopped and not any(report.stopped == text for _, text in report.failures):
        say(report.stopped)
    if report.interrupted:
        say(f"stopped by Ctrl-C; the {len(report.rows)} finished files are kept")
