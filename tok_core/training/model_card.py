"""Turn a finished run into a shipped model folder; what the cards of both senses share.

    run/model, run/config.yaml, run/metrics.jsonl --> weights, run.yaml, training.jsonl,
                                                      scores.json and README.md (the card)
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tok_core.errors import TesseraError


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run whose model stands in its target folder, ready to be scored.

    Attributes:
        target: the folder. model: loaded from it.
        config: the resolved recipe. lines: of metrics.jsonl.
        units: what the run's speed counts, such as ``images``.
    """

    target: Path
    model: Any
    config: dict[str, Any]
    lines: list[dict[str, Any]]
    units: str

    def facts(self) -> dict[str, Any]:
        """Return the words of a card that do not depend on the sense."""
        train, name = self.config["train"], self.config["name"]
        rates = [r for line in self.lines if (r := line.get(f"{self.units}_per_second"))]
        batch = train["batch_size"] * train["accumulation"]
        seconds = train["steps"] * batch * sum(1 / rate for rate in rates) / max(1, len(rates))
        weights = sum(file.stat().st_size for file in self.target.glob("*.safetensors"))
        return {
            "name": name, "recipe": f"{name}.yaml", "kind": type(self.model).__name__,
            "parameters": sum(p.numel() for p in self.model.parameters()) / 1e6,
            "megabytes": weights / 1e6, "dtype": self.config["export"]["dtype"],
            "code_hash": self.code_hash()[:16], "steps": train["steps"], "batch": batch,
            "hours": f"{seconds / 60:.0f} minutes",
        }  # fmt: skip

    def code_hash(self) -> str:
        """Return the code hash of a tokenizer, or of the tokens that a generator draws."""
        drawn = self.model.config.get("code_hash")
        return str(drawn or self.model.code_hash())

    def data(self, words: dict[str, str]) -> str:
        """Return the sources with their shares, named by ``words`` where they have any."""
        data = self.config["data"]
        shares = data.get("mixture") or {data["source"]: 1.0}
        total = sum(shares.values())
        return ", ".join(f"{x / total:.0%} {words.get(name, name)}" for name, x in shares.items())

    def finish(self, scores: dict[str, Any], card: str) -> None:
        """Write ``scores.json`` and the card."""
        (self.target / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
        (self.target / "README.md").write_text(card)


def ship_run(run: Path, target: Path, *, units: str) -> FinishedRun:
    """Copy ``run/model`` with its recipe and its brief history to ``target`` and load it.

    Args:
        run: a finished run folder. target: folder to fill; an old model there is replaced.
        units: what the run's speed counts, ``images`` or ``clips``.

    Raises:
        TesseraError: the run has not finished.

    Example:
        >>> ship_run(Path("runs/mine"), Path("models/mine"), units="images")  # doctest: +SKIP
    """
    import yaml

    from tok_core.loading import load

    if not (run / "model" / "config.json").is_file():
        raise TesseraError(f"{run} holds no finished model; train to the last step first.")
    target.mkdir(parents=True, exist_ok=True)
    for file in (run / "model").iterdir():
        shutil.copyfile(file, target / file.name)
    shutil.copyfile(run / "config.yaml", target / "run.yaml")
    config = yaml.safe_load((run / "config.yaml").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    brief = "".join(json.dumps(_brief(line, units)) + "\n" for line in lines)
    (target / "training.jsonl").write_text(brief)
    return FinishedRun(target=target, model=load(target), config=config, lines=lines, units=units)


def card_command(
    program: str, write: Callable[..., dict[str, Any]], show: Callable[[dict[str, Any]], str],
    arguments: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Run a sense's card writer from the command line: RUN TARGET.

    Args:
        program: its module. write: called with run, target and ``machine``; returns the scores.
        show: makes the line or lines printed of them.

    Returns:
        0, or 2 for a user's mistake (one sentence).
    """
    parser = argparse.ArgumentParser(
        prog=program, description="Turn a finished run into a shipped model with its card."
    )
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("target", type=Path, help="folder of the shipped model")
    parser.add_argument("--machine", default="2 CPU cores", help="words for the card's table")
    options = parser.parse_args(arguments)
    try:
        scores = write(options.run, options.target, machine=options.machine)
    except TesseraError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(show(scores))
    return 0


def _brief(line: dict[str, Any], units: str) -> dict[str, Any]:
    """Keep losses, scores and speed, rounded; the card's folder travels in the package."""
    keep = ("step", "loss", "learning_rate", f"{units}_per_second", "codebook/perplexity")
    return {
        key: round(value, 5) if isinstance(value, float) else value
        for key, value in line.items()
        if key in keep or key.startswith("validation/")
    }
