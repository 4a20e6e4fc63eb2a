"""Runs of ``eval pfid`` and ``eval perturbed``: tokenizers, budgets, the loop, the scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torchmetrics import Metric

from eval import registry
from eval.contestant import Signal
from eval.loop import Pass
from eval.options import numbers
from eval.perturbed_decoding import PerturbationGrid, grid_named
from eval.picture_sets import OriginalSet, stacked
from eval.protocol import Protocol
from eval.set_session import SetSession, checked_items, native_size
from tok_core.byte_rules import byte_rule
from tok_core.command_line import say
from tok_core.errors import ConfigError, WeightsError
from tok_core.resample import resample


def chosen_grid(
    name: str | None, alphas: Sequence[str] | None, deltas: Sequence[str] | None,
    neighbourhood: str, seed: int,
) -> PerturbationGrid:  # fmt: skip
    """Return a preset, or the grid of given alphas and deltas, with the run's seed.

    Raises:
        ConfigError: an unknown preset, one of alphas and deltas alone, numbers out of range.
    """
    if alphas is None and deltas is None:
        grid = grid_named(name or "")
        if neighbourhood != grid.neighbourhood:
            settings = tuple(
                dataclasses.replace(one, neighbourhood=neighbourhood) for one in grid.settings
            )
            grid = dataclasses.replace(
                grid, name=f"{grid.name}/{neighbourhood}", settings=settings
            )
        return dataclasses.replace(grid, seed=seed)
    shares, sizes = numbers(alphas, "--alphas"), numbers(deltas, "--deltas")
    if not shares or not sizes:
        raise ConfigError("a grid of your own needs --alphas and --deltas; give both.")
    return PerturbationGrid.product(
        "own", shares, (int(size) for size in sizes), neighbourhood=neighbourhood, seed=seed
    )


class PerturbedPictures:
    """``eval pfid``.

    Args:
        session: where scores go. protocol: of the run. grid: settings. device: of networks.
    """

    def __init__(
        self, session: SetSession, protocol: Protocol, grid: PerturbationGrid, device: str
    ) -> None:
        self.session, self.protocol, self.grid, self.device = session, protocol, grid, device

    def all(
        self, names: Sequence[str], data: str, *, budgets: Sequence[float] | None = None,
        skip_bad: bool = False, count: int | None = None,
    ) -> None:  # fmt: skip
        """Measure every tokenizer at every budget."""
        from eval.pfid import PerturbedDistance

        name, distance, value, weights = self._distance()
        for contestant, model in self.session.tokenizers(names, "image", self.device):
            sized = native_size(model, self.protocol, None)
            items, protocol = checked_items(
                self.session, data, sized, skip_bad=skip_bad, count=count
            )
            for budget in _legal(contestant, budgets):
                metric = PerturbedDistance(
                    model, distance, grid=self.grid, value=value, num_tokens=budget,
                    decode_batch=self.session.batch_size, to_bytes=byte_rule(protocol.byte_rule),
                    name=name,
                )  # fmt: skip
                facts = self._facts(contestant, protocol, items.sha256, metric.protocol(), name)
                found = self.session.loop(
                    metric, [Pass(items=OriginalSet(items, protocol),
                                  update=_pictures(metric, self.device))],
                    facts=facts, label=f"{contestant.name} {name}",
                )  # fmt: skip
                if found is None:
                    continue
                self._add(found, contestant, budget, metric, name, items.sha256, weights)

    def _distance(self) -> tuple[str, Callable[[], Metric], str, tuple[str, ...]]:
        """Return what to call the score, what makes the distance, its key and weight files."""
        from eval.fid import WEIGHTS, distribution_metric
        from eval.procedural_distance import NAME, ProceduralDistance

        options = {"resize": self.protocol.extractor_resize, "precision": self.protocol.precision}
        try:
            distribution_metric(["rfid"], **options)  # type: ignore[arg-type]
        except WeightsError as error:
            say(f"no pfid: {error}; the distance is {NAME} instead")
            return f"perturbed/{NAME}", ProceduralDistance, NAME, ()
        make: Callable[[], Metric] = lambda: distribution_metric(  # noqa: E731
            ["rfid"], **options  # type: ignore[arg-type]
        )
        return "pfid", make, "rfid", (WEIGHTS,)

    def _facts(
        self, contestant: Any, protocol: Protocol, items: str, grid: Any, name: str
    ) -> dict[str, Any]:
        return {
            "contestant": contestant.weights_hash, "protocol": protocol.to_dict(),
            "items": items, "grid": grid, "distance": name,
        }  # fmt: skip

    def _add(
        self, found: Mapping[str, Any], contestant: Any, budget: int | None, metric: Any,
        name: str, items: str, weights: Sequence[str],
    ) -> None:  # fmt: skip
        from eval.leg_scores import seen_protocol

        first = metric.distances[0]
        entry = registry.entry_named("rfid" if name == "pfid" else "frechet/procedural-v1")
        options = metric.protocol()
        samples = int(found[f"{name}/samples"])
        warnings = tuple(getattr(first, "warnings", ()) or ())
        protocol = seen_protocol(self.protocol_of(metric), entry, first).changed(samples=samples)
        for key, number in found.items():
            part = key.removeprefix(name).strip("/")
            if part.startswith("changed") or part == "samples":
                continue
            title = "pFID" if name == "pfid" else "perturbed Fréchet (proc.)"
            self.session.add(
                contestant, key, float(number), protocol=protocol, items=items, budget=budget,
                title=f"{title} {part}".strip(), kind="distribution", direction="lower",
                n=samples, options={} if part == "clean" else options, warnings=warnings,
            )  # fmt: skip
        changed = {key: float(value) for key, value in found.items() if "/changed/" in key}
        self.session.extras.setdefault("changed", {})[f"{contestant.name} {budget}"] = changed

    def protocol_of(self, metric: Any) -> Protocol:
        """Return the protocol at the size that this metric's tokenizer takes."""
        return native_size(metric.decoder.tokenizer, self.protocol, None)


class PerturbedSounds:
    """``eval perturbed``; arguments as of `PerturbedPictures`."""

    def __init__(
        self, session: SetSession, protocol: Protocol, grid: PerturbationGrid, device: str
    ) -> None:
        self.session, self.protocol, self.grid, self.device = session, protocol, grid, device

    def all(
        self, names: Sequence[str], data: str, *, metrics: Sequence[str] = (),
        budgets: Sequence[float] | None = None, skip_bad: bool = False, count: int | None = None,
    ) -> None:  # fmt: skip
        """Measure every codec at every budget."""
        from eval.perturbed_sound import PerturbedSound

        chosen = metrics or registry.usual("perturbed", "audio")
        entries = registry.metrics_named(chosen, "audio", kinds=("paired", "single"))
        for contestant, model in self.session.tokenizers(names, "audio", self.device):
            rated = self.protocol.changed(sample_rate=model.spec.input_rate)
            items, protocol = checked_items(
                self.session, data, rated, skip_bad=skip_bad, count=count
            )
            for budget in _legal(contestant, budgets):
                metric = PerturbedSound(
                    model, entries, grid=self.grid, num_codebooks=budget,
                    decode_batch=self.session.batch_size,
                )
                facts = {
                    "contestant": contestant.weights_hash, "protocol": protocol.to_dict(),
                    "items": items.sha256, "grid": metric.protocol(),
                }  # fmt: skip
                found = self.session.loop(
                    metric, [Pass(items=OriginalSet(items, protocol),
                                  update=_sounds(metric, model.spec.input_rate, self.device))],
                    facts=facts, label=f"{contestant.name} perturbed",
                )  # fmt: skip
                for key, number in (found or {}).items():
                    if "/changed/" in key or key.endswith("/samples"):
                        continue
                    self._add(contestant, budget, key, float(number), metric, protocol, items)

    def _add(
        self, contestant: Any, budget: int | None, key: str, number: float, metric: Any,
        protocol: Protocol, items: Any,
    ) -> None:  # fmt: skip
        entry = max(
            (one for one in metric.entries if key.startswith(f"perturbed/{one.name}")),
            key=lambda one: len(one.name),
        )
        direction = {True: "higher", False: "lower", None: "none"}[entry.higher_is_better]
        if key.endswith("/loss"):
            direction = "lower"
        part = key.removeprefix(f"perturbed/{entry.name}").strip("/:")
        self.session.add(
            contestant, key, number, protocol=protocol, items=items.sha256, budget=budget,
            title=f"perturbed {entry.title} {part}".strip(), unit=entry.unit, kind=entry.kind,
            direction=direction, n=len(items), options=metric.protocol(),
        )  # fmt: skip


def _legal(contestant: Any, budgets: Sequence[float] | None) -> list[int | None]:
    if not budgets or contestant.fixed:
        return [None]
    for budget in budgets:
        contestant.check_budget(budget)
    return [int(budget) for budget in budgets]


def _pictures(metric: Any, device: str) -> Callable[[list[int], list[Signal]], None]:
    return lambda indices, signals: metric.update(stacked(signals).to(device), indices)


def _sounds(metric: Any, rate: int, device: str) -> Callable[[list[int], list[Signal]], None]:
    def update(indices: list[int], signals: list[Signal]) -> None:
        sounds = [resample(one.unit, one.rate or rate, rate) for one in signals]
        lengths = torch.tensor([sound.shape[-1] for sound in sounds])
        batch = torch.zeros(len(sounds), 1, int(lengths.max()))
        for row, sound in zip(batch, sounds, strict=True):
            row[:, : sound.shape[-1]] = sound
        equal = bool((lengths == lengths[0]).all())
        metric.update(batch.to(device), indices, None if equal else lengths.to(device))

    return update
