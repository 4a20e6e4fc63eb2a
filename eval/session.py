"""From the options of a verb to a finished table: contestants, items, run, files, exit code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eval import registry
from eval.contestant import Contestant, Original
from eval.launched import Processes, own_device, processes
from eval.metric_entry import MetricEntry
from eval.protocol import Protocol
from eval.run import Leg, Plan, Run
from eval.score import ScoreFile
from tok_core.command_line import say
from tok_core.errors import ConfigError

UNAVAILABLE = 3  # exit code of --require


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a verb was asked for.

    Args:
        command: the verb. sense: ``image`` or ``audio``. protocol: of the run.
        tokenizers, metrics: as the user wrote them. data: folder of originals.
        budgets, qualities, bitrates: numbers, None for each contestant's own.
        sweep: whether "own" means the points of a curve instead of a table's.
        speaker_model, recogniser, transcripts: named networks for speaker similarity and WER.
        reference: ``.npz`` that stands for the originals in distances, or None.
        others: see `eval.options`.
    """

    command: str
    sense: str
    protocol: Protocol
    tokenizers: Sequence[str]
    data: str
    metrics: Sequence[str]
    budgets: Sequence[float] | None = None
    qualities: Sequence[float] | None = None
    bitrates: Sequence[float] | None = None
    sweep: bool = False
    out: str | None = None
    force: bool = False
    count: int | None = None
    skip_bad: bool = False
    require: bool = False
    ground_truth: bool = True
    policy: str = "tile"
    batch_size: int = 16
    device: str = "auto"
    seed: int = 0
    speed: bool = False
    samples: int = 0
    save_every: float = 20.0
    format: str = "rich"
    columns: Sequence[str] | None = None
    reference: str | None = None
    speaker_model: str | None = None
    recogniser: str | None = None
    transcripts: str | None = None

    def run(self) -> int:
        """Measure, print, write; return the exit code."""
        with processes() as here:
            result = self.measure(here)
            return self.finish(result) if here.main else 0

    def measure(self, here: Processes) -> ScoreFile:
        """Measure in all processes and return the scores (empty but on the main one)."""
        from eval.checkpoint import Checkpoint
        from eval.contestants import contestants
        from eval.preflight import usable_items
        from eval.samples import SampleFolder

        check_target(self.out, force=self.force)
        entries = self.entries()
        device = own_device(self.device)
        competing = contestants(
            registry.words(self.tokenizers), self.sense, device=device, policy=self.policy,
            batch_size=self.batch_size,
        )  # fmt: skip
        legs = self.legs(competing)
        items, protocol, warnings = usable_items(
            self.data, self.protocol, competing, skip_bad=self.skip_bad, count=self.count
        )
        protocol, overrides = self.with_reference(protocol, entries)
        if self.transcripts is not None:
            overrides["names"] = [item.name for item in items.items]
        plan = Plan(
            command=self.command, protocol=protocol, items=items, legs=legs, entries=entries,
            seed=self.seed, batch_size=self.batch_size, speed=self.speed, warnings=warnings,
            device=device, overrides=overrides,
        )  # fmt: skip
        kept = Checkpoint(parts_folder(self.command, self.out), here, every=self.save_every)
        samples = None
        if self.samples and self.out is not None:
            samples = SampleFolder(Path(self.out).with_suffix(".samples"), self.samples)
        result = Run(plan, kept, here, samples).all()
        if here.main:
            if self.out is not None:
                result.write(self.out, force=self.force)
                say(f"wrote {self.out}")
            kept.remove()
        return result

    def with_reference(
        self, protocol: Protocol, entries: Sequence[MetricEntry]
    ) -> tuple[Protocol, dict[str, Any]]:
        """Return the protocol with the hash of its reference file, and what metrics need of it.

        Raises:
            ConfigError: the protocol compares with a file and none was given; rFID of pictures that
                are no training pictures against statistics of those.
        """
        if not any(entry.kind == "distribution" for entry in entries):
            return protocol, {}
        if self.reference is None:
            if protocol.reference == "file":
                raise ConfigError(
                    f"protocol '{protocol.name}' compares with a reference file; give it with "
                    "--reference FILE.npz."
                )
            return protocol, {}
        from eval.reference_statistics import is_train_statistics, read_statistics

        statistics = read_statistics(self.reference)
        rfid = any(entry.name == "rfid" for entry in entries)
        if rfid and protocol.split != "train" and is_train_statistics(statistics):
            raise ConfigError(
                f"{self.reference} describes training pictures, against which the rFID of others "
                "comes out far too high; leave --reference out to compare with the originals, or "
                "judge training pictures with --protocol mar."
            )
        protocol = protocol.changed(reference="file", reference_sha256=statistics.sha256)
        return protocol, {"reference": self.reference}

    def entries(self) -> list[MetricEntry]:
        """Return the metrics that were named, or the usual ones."""
        names = registry.words(self.metrics) or registry.usual(self.command, self.sense)
        return [self._named_network(one) for one in registry.metrics_named(names, self.sense)]

    def _named_network(self, entry: MetricEntry) -> MetricEntry:
        """Put the networks that the user named into the metrics that need one."""
        if entry.name == "speaker_similarity" and self.speaker_model is not None:
            from eval.speaker_similarity import speaker_similarity_entry

            return speaker_similarity_entry(self.speaker_model)
        if entry.name.partition("/")[0] in ("wer", "cer") and self.recogniser is not None:
            from eval.heard_words import heard

            return heard(
                registry.entry_named(entry.name), self.recogniser, self.transcripts
            )
        return entry

    def legs(self, competing: Sequence[Contestant]) -> list[Leg]:
        """Return every contestant at every budget that it can do, the originals first."""
        found = [Leg(Original(self.sense))] if self.ground_truth else []
        for one in competing:
            found += [
                Leg(one, budget)
                for budget in fitting_budgets(
                    one, self.budgets, self.qualities, self.bitrates, sweep=self.sweep
                )
            ]
        return found

    def finish(self, result: ScoreFile) -> int:
        """Print the table and what is missing; return the exit code."""
        return show(result, format=self.format, columns=self.columns, require=self.require)


def fitting_budgets(
    one: Contestant, budgets: Sequence[float] | None = None,
    qualities: Sequence[float] | None = None, bitrates: Sequence[float] | None = None, *,
    sweep: bool = False,
) -> list[float | None]:  # fmt: skip
    """Return those of the budgets asked for that a contestant can do, or its own.

    Args:
        budgets: of tokens or codebooks. qualities, bitrates: of classic codecs.
        sweep: whether its own are those of a curve instead of a table.

    Raises:
        ConfigError: it can do none of them.
    """
    given = {
        "tokens": budgets, "codebooks": budgets, "budget": budgets, "quality": qualities,
        "dB asked for": qualities, "kbit/s": bitrates,
    }.get(one.budget_name)  # fmt: skip
    if not given or one.fixed:
        return list((one.sweep if sweep else ()) or one.budgets)
    legal: list[float | None] = []
    reasons = []
    for budget in given:
        try:
            one.check_budget(budget)
        except ConfigError as error:
            reasons.append(str(error))
        else:
            legal.append(budget)
    if not legal:
        raise ConfigError(reasons[0])
    for reason in reasons:
        say(reason)
    return legal


def show(
    result: ScoreFile, *, format: str = "rich", columns: Sequence[str] | None = None,
    require: bool = False,
) -> int:  # fmt: skip
    """Print a table on stdout and, on stderr, why numbers are missing; return the exit code."""
    from eval import table

    order = column_order(columns)
    if format == "rich":
        table.print_table([result], columns=order)
    else:
        print(table.render([result], format=format, columns=order), end="")
    missing = list(dict.fromkeys(one.metric for one in result.scores if one.unavailable))
    if missing:
        say(f"some numbers of {', '.join(missing)} could not be had here; the notes say why")
    return UNAVAILABLE if missing and require else 0


def column_order(columns: Sequence[str] | None) -> Any:
    """Return what tables take as columns: a list of metrics, or the name of an order."""
    return columns[0] if columns and list(columns) == ["dates"] else columns


def parts_folder(command: str, out: str | None) -> Path:
    """Return where a killed run leaves what it has: beside --out, or in the user's cache."""
    if out is not None:
        return Path(out + ".parts")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "tessera" / "eval" / command


def check_target(path: str | None, *, force: bool, endings: Sequence[str] = (".json",)) -> None:
    """Raise before any work where a result could not be written."""
    if path is None:
        return
    from tok_core.atomic_write import check_free

    if not path.endswith(tuple(endings)):
        raise ConfigError(f"--out '{path}' must end in {' or '.join(endings)}.")
    check_free(path, force=force)


def chosen_protocol(name: str | None, sense: str, default: str, **changes: Any) -> Protocol:
    """Return the protocol of a name with some fields replaced, checked to be of this sense.

    A changed protocol carries its change in its name, so that tables tell them apart.
    """
    from eval.protocol import protocol_named

    protocol = protocol_named(name or default)
    if protocol.sense != sense:
        raise ConfigError(
            f"protocol '{protocol.name}' is about {protocol.sense}; this verb measures {sense}."
        )
    given = {key: value for key, value in changes.items() if value is not None}
    changed = [key for key, value in given.items() if getattr(protocol, key) != value]
    if not changed:
        return protocol
    words = ", ".join(f"{key} {given[key]}" for key in changed)
    return replace(protocol, **given, name=f"{protocol.name} with {words}")


def sense_of_data(data: str) -> str:
    """Return ``image`` or ``audio`` for a folder or file, by its endings.

    Raises:
        ConfigError: it holds both. MediaError: neither.
    """
    from eval.item_list import list_items
    from tok_core.errors import MediaError

    found = []
    for sense in ("image", "audio"):
        try:
            list_items(data, sense)
        except MediaError as error:
            last = error
        else:
            found.append(sense)
    if len(found) == 2 and Path(data).expanduser().is_dir():
        raise ConfigError(f"'{data}' holds pictures and sounds; say which with --sense.")
    if not found:
        raise last
    return found[0]
