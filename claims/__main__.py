r"""Show every paper's claim small: measure what is missing, write docs/claims.md.

    make claims                       # everything, at most a quarter of an hour a row
    make claims ONLY=tail_drop        # one claim; several with ONLY="tail_drop token_shuffle"
    python -m claims --list           # claims, rows that are there, estimates
    python -m claims --report         # take over what benchmarks measured, write the document
    python -m claims --small          # tiny sizes, kept under runs/claims-small

Every finished row is kept at once; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from claims.catalogue import CLAIMS
from claims.claim import Claim
from claims.harness import RESULTS, ROOT, WORK, OutOfTime, Session, measure, take_over
from tok_core.errors import ConfigError, TesseraError, nearest

SMALL_WORK = ROOT / "runs" / "claims-small"


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m claims", description=(__doc__ or "").splitlines()[0].removeprefix("r")
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="CLAIM", help="names of claims")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, help="stop before so many are over")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--small", action="store_true", help="tiny sizes, another folder")
    parser.add_argument("--list", action="store_true", help="what there is and what is missing")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the document")
    parser.add_argument("--results", type=Path, help="folder of the JSON files and plots")
    parser.add_argument("--document", type=Path, help="the document; docs/claims.md")
    return parser.parse_args(arguments)


def chosen(names: Sequence[str]) -> list[Claim]:
    """Return the claims of these names, all for none.

    Raises:
        ConfigError: an unknown name.
    """
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            raise ConfigError(
                f"claim '{name}' is unknown; legal are {', '.join(known)}{nearest(name, known)}"
            )
    return [known[name] for name in names] if names else list(CLAIMS)


def device_of(given: str) -> str:
    """Return ``cpu`` or ``cuda``; ConfigError for a GPU that is not there."""
    if given == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the training engine and benchmarks look for one
    import torch

    if given == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda was given but torch sees no GPU; use --device cpu.")
    return "cuda" if torch.cuda.is_available() else "cpu"


def session_of(options: argparse.Namespace) -> Session:
    """Return the session that the command line asks for."""
    end = math.inf if options.seconds is None else time.monotonic() + options.seconds
    results = options.results or (SMALL_WORK / "results" if options.small else RESULTS)
    device = "cpu" if options.list or options.report else device_of(options.device)
    return Session(
        results=results, work=SMALL_WORK / "data" if options.small else WORK,
        seeds=tuple(dict.fromkeys(options.seeds)), small=options.small, device=device, end=end,
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Measure and report; 1 where a row failed, 130 when interrupted."""
    claims, session, code = chosen(options.only), session_of(options), 0
    if options.list:
        show(claims, session)
        return 0
    if options.report:
        for claim in claims:
            take_over(claim, session)
    else:
        code = _measured(claims, session)
    from claims.report import write

    small = SMALL_WORK / "claims.md"
    document = options.document or (small if options.small else ROOT / "docs" / "claims.md")
    write(CLAIMS, session, document, drawn=claims)
    print(f"written to {document}")
    return code


def _measured(claims: Sequence[Claim], session: Session) -> int:
    failed: list[str] = []
    try:
        for claim in claims:
            failed += measure(claim, session)
    except OutOfTime:
        print("the time is over; what is finished is kept, the same command goes on")
    except (KeyboardInterrupt, SystemExit) as stop:
        print(f"stopped ({stop or 'interrupted'}); the same command goes on")
        return 130
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


def show(claims: Sequence[Claim], session: Session) -> None:
    """Print one line per claim."""
    from claims.harness import Results

    for claim in claims:
        rows = claim.rows(session.seeds, session.small)
        results = Results(session.results, claim.name)
        there = sum(results.holds(row) for row in rows)
        print(f"{claim.name:20s}{there:>4d} of {len(rows):>3d} rows  "
              f"about {claim.minutes:.0f} CPU minutes for all  {claim.claim}")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: return 0, 1 where a row failed, 2 for a user's mistake, 130 when stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run(options_of(arguments))
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
