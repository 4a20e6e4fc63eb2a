"""Judging: what every metric of a run gets to see of originals and reconstructions.

    originals ─┬───────────────────────────────▶ reference ┐
               └─ contestant ─▶ byte rule / rate, length ──┴▶ metric.update(test, reference)

Letters: B items of a batch, H W pixels, T samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from eval.contestant import Contestant, Reconstruction, Signal, grouped
from eval.metric_building import build, families
from eval.metric_entry import MetricEntry
from eval.metric_states import States, keep_from_syncing, metric_states, set_states
from eval.originals import fitted, through_pcm16
from eval.protocol import Protocol
from eval.rates import RateMeter
from eval.speed import SpeedMeter
from tok_core.byte_rules import byte_rule
from tok_core.errors import ConfigError, MediaError, WeightsError
from tok_core.resample import resample

NOT_FINITE = "the contestant returned NaN or infinite values"


class Measure(NamedTuple):
    """A metric with the rows of the registry that it gives numbers for."""

    entries: tuple[MetricEntry, ...]
    metric: Metric

    @property
    def kind(self) -> str:
        """What its ``update`` takes."""
        return self.entries[0].kind


@dataclass
class Failed:
    """Items without a reconstruction. items: (index, reason), in order."""

    items: list[tuple[int, str]] = field(default_factory=list)


class Judge:
    """The metrics of a run, used for one leg (contestant and budget) after the other.

    Networks are loaded once. Metrics that cannot be built here are kept with the reason.

    Args:
        entries: of the metrics. protocol: of the run, with its sample rate.
        device: where metrics with networks work. speed: whether to time the contestants.

    Attributes:
        metrics: by name; the family of one feature network is one metric, so that every picture
            passes the network once. unavailable: entry and reason by name.
        sees_originals: whether the originals' side of distances is still to be filled.
        failed: items of this leg without a reconstruction. judged: number of those with one.

    Example:
        >>> judge = Judge([entry_named("psnr")], protocol_named("photographs"))
        >>> judge.begin(contestant)
        >>> judge.update(signals, contestant.reconstruct(signals))
    """

    def __init__(
        self, entries: Sequence[MetricEntry], protocol: Protocol, *, device: str = "cpu",
        speed: bool = False, overrides: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        # Metrics count in float64, which Apple's GPUs do not have.
        self.device = "cpu" if device.startswith("mps") else device
        self.protocol, self.speed = protocol, speed
        self.overrides = dict(overrides or {})
        self.wanted_usage = [one for one in entries if one.sense == "tokens"]
        self.metrics: dict[str, Measure] = {}
        self.unavailable: dict[str, tuple[MetricEntry, str]] = {}
        self._build([entry for entry in entries if entry.sense != "tokens"])
        self.to_bytes = byte_rule(protocol.byte_rule)
        self.sees_originals = True

    def _build(self, entries: Sequence[MetricEntry]) -> None:
        for rows in families(entries):
            try:
                metric = build(rows, self.protocol, self.overrides)
            except (ConfigError, MediaError, WeightsError) as error:
                self.unavailable |= {entry.name: (entry, str(error)) for entry in rows}
                continue
            name = "+".join(entry.name for entry in rows)
            self.metrics[name] = Measure(rows, keep_from_syncing(metric.to(self.device)))

    def retry_without(self, override: str) -> None:
        """Try metrics that could not be built once more, without one of the overrides."""
        failed, self.unavailable = self.unavailable, {}
        kept = self.overrides.pop(override, None)
        self._build([entry for entry, _ in failed.values()])
        if kept is not None:
            self.overrides[override] = kept

    @property
    def has_distances(self) -> bool:
        """Whether any metric looks at a set of originals."""
        return any(one.kind == "distribution" for one in self.metrics.values())

    def begin(self, contestant: Contestant, real: States | None = None) -> None:
        """Forget the leg before.

        Args:
            real: the originals' side of all distances, if an earlier leg filled it.
        """
        for one in self.metrics.values():
            one.metric.reset()
        self.usage = {
            entry.name: Measure((entry,), entry.build(contestant.spec, **entry.options))
            for entry in self.wanted_usage
            if contestant.spec is not None
        }
        rate = self.protocol.sample_rate
        self.rates = keep_from_syncing(RateMeter(sample_rate=rate))
        self.speeds = keep_from_syncing(SpeedMeter())
        for one in self.usage.values():
            keep_from_syncing(one.metric)
        self.failed, self.judged = Failed(), 0
        self.sees_originals = real is None
        if real is not None:
            self.set_states(real)

    # -- states --------------------------------------------------------------------------------

    def parts(self) -> dict[str, Metric]:
        """Return every metric of this leg by name, rates and speed among them."""
        named = {name: one.metric for name, one in {**self.metrics, **self.usage}.items()}
        return {**named, ".rates": self.rates, ".speeds": self.speeds}

    def states(self) -> States:
        """Return the states of all parts, ``name|state``."""
        return {
            f"{name}|{key}": value
            for name, metric in self.parts().items()
            for key, value in metric_states(metric).items()
        }

    def set_states(self, states: States) -> None:
        """Put `states` back."""
        by_part: dict[str, States] = {}
        for key, value in states.items():
            name, _, state = key.partition("|")
            by_part.setdefault(name, {})[state] = value
        parts = self.parts()
        for name, own in by_part.items():
            if name in parts:
                set_states(parts[name], own)

    # -- batches -------------------------------------------------------------------------------

    def update(
        self, signals: Sequence[Signal], made: Sequence[Reconstruction], *, timed: bool = True
    ) -> None:
        """Show a batch to all metrics; damaged reconstructions count as failed.

        Args:
            timed: whether the seconds count; the first batch of a leg warms the machine up.
        """
        if len(made) != len(signals):
            raise MediaError(
                f"a contestant returned {len(made)} reconstructions of {len(signals)} originals; "
                "it must return one each."
            )
        good = []
        for signal, one in zip(signals, made, strict=True):
            reason = self._damage(signal, one)
            if reason:
                self.failed.items.append((signal.index, reason))
                continue
            good.append((signal, one))
            self._count(signal, one, timed)
        self.judged += len(good)
        if self.protocol.sense == "image":
            self._pictures(signals, good)
        else:
            for signal, one in good:
                self._sound(signal, one)

    def _damage(self, signal: Signal, one: Reconstruction) -> str | None:
        if not bool(torch.isfinite(one.values).all()):
            return NOT_FINITE
        if self.protocol.sense == "image" and one.values.shape != signal.values.shape:
            return "the contestant returned a picture of another size than the original"
        if self.protocol.sense == "audio" and not one.values.shape[-1]:
            return "the contestant returned no samples"
        return None

    def _count(self, signal: Signal, one: Reconstruction, timed: bool) -> None:
        height_or_one, last = signal.values.shape[-2:]
        seconds = last / signal.rate if signal.rate else None
        if one.bytes_on_disk is not None:
            extent: dict[str, float] = (
                {"pixels": height_or_one * last} if seconds is None else {"seconds": seconds}
            )
            tokens = None if one.tokens is None else one.tokens.numel()
            self.rates.update(one.bytes_on_disk, tokens=tokens, **extent)
        if one.tokens is not None:
            for usage in self.usage.values():
                usage.metric.update(one.tokens)
        if self.speed and timed:
            self.speeds.update(
                one.encode_seconds, one.decode_seconds, media_seconds=seconds or 0.0
            )

    def _pictures(
        self, signals: Sequence[Signal], good: Sequence[tuple[Signal, Reconstruction]]
    ) -> None:
        if self.sees_originals and self.has_distances:
            for _, part in grouped(signals, lambda one: one.values.shape, len(signals)):
                originals = torch.stack([one.values for one in part]).to(self.device)
                for one in self.metrics.values():
                    if one.kind == "distribution":
                        one.metric.update(originals, real=True)
        for _, pairs in grouped(good, lambda pair: pair[0].values.shape, max(1, len(good))):
            reference = torch.stack([signal.values for signal, _ in pairs]).to(self.device)
            test = torch.stack([self._bytes(one.values) for _, one in pairs]).to(self.device)
            indices = [signal.index for signal, _ in pairs]
            for one in self.metrics.values():
                if one.kind == "paired":
                    one.metric.update(test, reference, indices=indices)
                elif one.kind == "distribution":
                    one.metric.update(test, real=False)
                else:
                    one.metric.update(test)

    def _bytes(self, values: Tensor) -> Tensor:
        return values if values.dtype == torch.uint8 else self.to_bytes(values)

    def _sound(self, signal: Signal, one: Reconstruction) -> None:
        rate = signal.rate or one.rate or 0
        test = resample(one.values.float(), one.rate or rate, rate)
        if self.protocol.sample_format == "pcm16":
            test = through_pcm16(test)
        test, reference = fitted(test, signal.unit, self.protocol.trim)
        ready: dict[int, tuple[Tensor, Tensor]] = {}
        for measure in self.metrics.values():
            wanted = int(getattr(measure.metric, "sample_rate", None) or rate)
            if wanted not in ready:
                ready[wanted] = tuple(  # type: ignore[assignment]
                    resample(sound, rate, wanted).to(self.device) for sound in (test, reference)
                )
            sounds = ready[wanted] if measure.kind == "paired" else ready[wanted][:1]
            measure.metric.update(*sounds, indices=[signal.index])
