"""Generated pictures against a reference set, with every distance in one pass.

    reference  folder ──crop──▶ real side          .npz ──▶ its moments, and its pictures if any
    samples    folder or .npz, as they are ──▶ generated side
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torchmetrics import Metric

from eval.contestant import Contestant
from eval.judging import Judge
from eval.leg_scores import LegScores
from eval.loop import Pass
from eval.metric_entry import MetricEntry
from eval.picture_sets import PictureSet, by_shape
from eval.protocol import Protocol
from eval.reference_statistics import read_statistics
from eval.set_session import SetSession
from tok_core.command_line import say
from tok_core.errors import ConfigError, MediaError


class Together(Metric):
    """Several distances that see the same pictures; their states are saved and merged as one.

    Args:
        metrics: distribution metrics. options: of `torchmetrics.Metric`.
    """

    full_state_update = False

    def __init__(self, metrics: Sequence[Metric]) -> None:
        super().__init__()
        self.metrics = nn.ModuleList(metrics)

    def update(self, images: Tensor, *, real: bool) -> None:
        """Take uint8 (B, 3, H, W) of one side."""
        for metric in self.metrics:
            metric.update(images, real=real)  # type: ignore[operator]

    def compute(self) -> dict[str, Tensor]:
        """Return nothing: each metric is computed by itself."""
        return {}


class GeneratedRun:
    """One run of ``eval gen``.

    Args:
        session: where scores go. protocol: for the real pictures of a folder.
        entries: distribution metrics. device: of their networks. skip_bad: leave bad files out.
    """

    def __init__(
        self, session: SetSession, protocol: Protocol, entries: Sequence[MetricEntry],
        device: str, skip_bad: bool,
    ) -> None:  # fmt: skip
        self.session, self.protocol, self.entries = session, protocol, entries
        self.device, self.skip_bad = device, skip_bad

    def all(self, samples: Sequence[str], reference: str) -> None:
        """Judge every set of samples against the reference and add the scores to the session."""
        real, sha256, overrides = self._reference(reference)
        kind = "file" if reference.endswith(".npz") else "originals"
        protocol = self.protocol.changed(reference=kind, reference_sha256=sha256)
        names = [_labelled(text) for text in samples]
        if len({name for name, _ in names}) < len(names):
            raise ConfigError("two sets of samples have one name; write LABEL=DIR for one of them.")
        # Generated pictures have their size already.
        plain = protocol.changed(crop="none")
        sets = [(name, PictureSet(path, plain, skip_bad=self.skip_bad)) for name, path in names]
        for name, generated in sets:
            self._one(name, generated, real, protocol.changed(samples=len(generated)), overrides)

    def _reference(self, text: str) -> tuple[PictureSet | None, str, dict[str, str]]:
        if not text.endswith(".npz"):
            pictures = PictureSet(text, self.protocol, skip_bad=self.skip_bad)
            self.session.warnings += pictures.warnings
            return pictures, pictures.sha256, {}
        try:
            statistics = read_statistics(text)
        except MediaError:
            pictures = PictureSet(text, self.protocol)  # raises again unless it has pictures
            return pictures, pictures.sha256, {}
        real = PictureSet(text, self.protocol) if statistics.pictures is not None else None
        return real, statistics.sha256, {"reference": text}

    def _one(
        self, name: str, generated: PictureSet, real: PictureSet | None, protocol: Protocol,
        overrides: dict[str, str],
    ) -> None:  # fmt: skip
        session = self.session
        judge = Judge(self.entries, protocol, device=self.device, overrides=overrides)
        if real is not None:
            judge.retry_without("reference")  # metrics that cannot use the file see its pictures
        contestant = Contestant(name=name, sense="image", device=self.device)
        judge.begin(contestant)
        if judge.metrics:
            metric = Together([one.metric for one in judge.metrics.values()])
            sides = [(real, True)] if real is not None else []
            passes = [Pass(items=side, update=_shown(metric, is_real))
                      for side, is_real in [*sides, (generated, False)] if side]  # fmt: skip
            facts = {
                "protocol": protocol.to_dict(), "samples": generated.sha256,
                "metrics": sorted(judge.metrics),
            }  # fmt: skip
            session.loop(metric, passes, facts=facts, label=name)
        if not session.here.main:
            return
        judge.judged = len(generated)
        if not judge.metrics:
            say(f"{name}: none of the metrics could be had")
        scores, _ = LegScores(
            judge, contestant, None, names=[], items=protocol.reference_sha256 or "",
            seed=session.seed, extra_warnings=(*session.warnings, *generated.warnings),
        ).all()  # fmt: skip
        session.scores += scores


def _shown(metric: Together, real: bool) -> Callable[[list[int], list[Tensor]], None]:
    def update(indices: list[int], pictures: list[Tensor]) -> None:
        for batch in by_shape(pictures):
            metric.update(batch, real=real)

    return update


def _labelled(text: str) -> tuple[str, str]:
    label, equals, path = text.partition("=")
    if equals and label and path and "/" not in label:
        return label, path
    return Path(text).name or text, text
