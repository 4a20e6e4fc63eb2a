"""What the verbs with a loop of their own share: tokenizers, items, checkpoint, scores, output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval import registry
from eval.checkpoint import Checkpoint
from eval.contestants import contestants
from eval.contestants_tokenizer import TokenizerContestant
from eval.launched import Processes
from eval.score import Score, ScoreFile, package_versions
from eval.session import check_target, parts_folder, show
from tok_core.command_line import say
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError

if TYPE_CHECKING:
    from eval.item_list import ItemList
    from eval.protocol import Protocol


@dataclass(kw_only=True)
class SetSession:
    """One run of a verb with a loop of its own.

    Args:
        command: the verb. here: the processes of this run. out, force: where scores go.
        batch_size: items per call. seed: of all draws. warnings: sentences on the whole run.
        endings: that ``out`` may have.

    Attributes:
        scores, extras: what `finish` prints and writes.
    """

    command: str
    here: Processes
    out: str | None = None
    force: bool = False
    batch_size: int = 16
    seed: int = 0
    warnings: tuple[str, ...] = ()
    endings: tuple[str, ...] = (".json",)
    scores: list[Score] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_target(self.out, force=self.force, endings=self.endings)
        self.checkpoint = Checkpoint(parts_folder(self.command, self.out), self.here)

    def tokenizers(self, names: Sequence[str], sense: str, device: str) -> list[tuple[Any, Any]]:
        """Return the contestants behind names with their tokenizers.

        Raises:
            ConfigError: a contestant without codes to perturb.
        """
        found = []
        for one in contestants(
            registry.words(names), sense, device=device, batch_size=self.batch_size
        ):
            model = one.model if isinstance(one, TokenizerContestant) else None
            if not isinstance(model, Tokenizer):
                raise ConfigError(
                    f"eval {self.command} changes codes, and '{one.name}' is no tokenizer of the "
                    "contract; name a shipped model, a model folder or a hub id."
                )
            found.append((one, model))
        return found

    def loop(self, metric: Any, passes: Any, *, facts: Mapping[str, Any], label: str) -> Any:
        """Run `eval.loop.run_passes` with the habits of this run."""
        from eval.loop import run_passes

        facts = {"command": self.command, "seed": self.seed, **facts}
        return run_passes(
            metric, passes, checkpoint=self.checkpoint, processes=self.here, facts=facts,
            batch_size=self.batch_size, label=label,
        )  # fmt: skip

    def add(
        self, contestant: Any, metric: str, value: float, *, protocol: Protocol, items: str,
        budget: float | None = None, **fields: Any,
    ) -> None:  # fmt: skip
        """Add one score; NaN becomes a score without a number."""
        good = value == value
        weights = dict(fields.pop("weights", {}))
        if contestant.weights_hash:
            weights["contestant"] = contestant.weights_hash
        unavailable = fields.pop("unavailable", None)
        self.scores.append(
            Score(
                contestant=contestant.name, metric=metric, value=value if good else None,
                unavailable=None if good else unavailable or "no item has a number",
                protocol=protocol, items=items, budget=budget, weights=weights,
                budget_name=contestant.budget_name if budget is not None else "",
                warnings=(*self.warnings, *fields.pop("warnings", ())), seed=self.seed,
                versions=package_versions(), device=contestant.device, dtype=contestant.dtype,
                **fields,
            )
        )  # fmt: skip

    def finish(
        self, *, format: str = "rich", columns: Sequence[str] | None = None,
        require: bool = False,
    ) -> int:  # fmt: skip
        """Write and print on the main process; return the exit code."""
        if not self.here.main:
            return 0
        result = ScoreFile(command=self.command, scores=tuple(self.scores), extras=self.extras)
        if self.out is not None:
            result.write(self.out, force=self.force)
            say(f"wrote {self.out}")
        self.checkpoint.remove()
        return show(result, format=format, columns=columns, require=require)

    def beside(self, ending: str) -> Path:
        """Return a file beside --out (or here) for pictures."""
        return Path(self.out).with_suffix(ending) if self.out else Path(self.command + ending)


def native_size(model: Any, protocol: Protocol, size: int | None) -> Protocol:
    """Return the protocol at the size that an image tokenizer takes, if it has one.

    Raises:
        ConfigError: another size was asked for.
    """
    native = model.spec.image_size
    if native is None:
        return protocol if size is None else protocol.changed(size=size)
    if native[0] != native[1] or (size is not None and size != native[0]):
        raise ConfigError(
            f"pictures of {size} pixels were asked for and {type(model).__name__} takes "
            f"{native[1]} x {native[0]}; leave --size out."
        )
    return protocol.changed(size=native[0])


def checked_items(
    session: SetSession, data: str, protocol: Protocol, *, skip_bad: bool, count: int | None
) -> tuple[ItemList, Protocol]:
    """Return the items that can be read, and the protocol with rate and sample count."""
    from eval.preflight import usable_items

    items, protocol, warnings = usable_items(data, protocol, [], skip_bad=skip_bad, count=count)
    session.warnings = tuple(dict.fromkeys((*session.warnings, *warnings)))
    return items, protocol
