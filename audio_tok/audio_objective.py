"""What an audio codec is trained to do: every term with its weight and its first step.

    loss/mel                       log mel distance (WavTokenizer's)
    loss/multi_mel                 log mel distance over several windows (needs no discriminator)
    loss/quantizer/commitment      the quantizer's own loss
    loss/semantic                  cosine distance to a teacher, of codecs with a semantic stream
    loss/{period,resolution,dac}/adversarial, .../features    what each kind of discriminator says
    discriminator/{period,resolution,dac}                     what each kind learns from

Letters: B sounds, T samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from audio_tok.discriminators import (
    Count,
    DacOptions,
    Discriminators,
    PeriodOptions,
    ResolutionOptions,
    Size,
    Terms,
    Weight,
    build_kinds,
)
from audio_tok.judgement import (
    feature_matching,
    hinge_discriminator,
    hinge_generator,
    squares_discriminator,
    squares_generator,
)
from audio_tok.semantic_distillation import semantic_distillation
from audio_tok.semantic_teacher import SemanticTeacherConfig, build_teacher
from tok_core.contract import TrainingOutput
from tok_core.errors import ConfigError
from tok_core.mel import MelSpectrogram, MultiResolutionMel, log_mel_distance
from tok_core.training.objective import Objective


@dataclass(frozen=True, kw_only=True)
class AudioObjectiveConfig:
    """Loss terms of an audio codec; the defaults are WavTokenizer's.

    Attributes:
        sample_rate: of data and model, in Hz.
        mel_weight, mel_start, mel_n_fft, mel_hop, mel_bins: of ``loss/mel``.
        multi_mel_weight, multi_mel_start, multi_mel_sizes, multi_mel_bins, multi_mel_silence,
            multi_mel_magnitudes: of ``loss/multi_mel``, see `tok_core.mel.MultiResolutionMel`.
        commitment_weight, commitment_start: of all the quantizer's own terms.
        semantic_weight, semantic_start: of ``loss/semantic``. semantic: which teacher.
        shortened_weight: of the same terms, discriminators left out, on the sound decoded from a
            prefix of the levels, where tail drop trains jointly.
        period, resolution, dac: the three kinds of discriminators.
        official_frozen_dac: the third kind keeps its random start, as in the published training,
            whose optimizer held another copy; it is heard all the same.
    """

    sample_rate: Size = 24_000
    mel_weight: Weight = 45.0
    mel_start: Count = 0
    mel_n_fft: Size = 1024
    mel_hop: Size = 256
    mel_bins: Size = 100
    multi_mel_weight: Weight = 0.0
    multi_mel_start: Count = 0
    multi_mel_sizes: tuple[Size, ...] = (512, 1024, 2048)
    multi_mel_bins: tuple[Size, ...] = (40, 80, 100)
    multi_mel_silence: float | None = None
    multi_mel_magnitudes: Weight = 0.0
    commitment_weight: Weight = 1000.0
    commitment_start: Count = 0
    semantic_weight: Weight = 0.0
    semantic_start: Count = 0
    semantic: SemanticTeacherConfig = field(default_factory=SemanticTeacherConfig)
    shortened_weight: Weight = 1.0
    period: PeriodOptions = field(default_factory=PeriodOptions)
    resolution: ResolutionOptions = field(default_factory=ResolutionOptions)
    dac: DacOptions = field(default_factory=DacOptions)
    official_frozen_dac: bool = False


@dataclass(frozen=True)
class _Losses:
    """How verdicts of one kind become losses."""

    generator: Callable[..., Tensor]
    discriminator: Callable[..., Tensor]
    averaged: bool  # feature matching over sub-discriminators: mean or sum
    last_map: bool  # whether the logits' map takes part in it


_HINGE = _Losses(hinge_generator, hinge_discriminator, True, True)
_SQUARES = _Losses(squares_generator, squares_discriminator, False, False)
LOSSES = {"period": _HINGE, "resolution": _HINGE, "dac": _SQUARES}


class AudioObjective(Objective):
    """The losses of `AudioObjectiveConfig`.

    Args:
        config: which terms, with which weights.

    Attributes:
        condition: int64 (1,) row of the discriminators' condition tables; None draws one for each
            pass, as the published training did.

    Raises:
        ConfigError: no term on the sound, impossible sizes, or an unknown teacher.
        WeightsError: a teacher that is not on this machine.

    Source: Ji et al. 2024, arXiv 2408.16532, section 3.4.

    Example:
        >>> objective = AudioObjective(AudioObjectiveConfig())
        >>> sum(objective.generator_losses(x, model(x), step=0).values()).backward()
    """

    frozen_parts = ("teacher",)

    def __init__(self, config: AudioObjectiveConfig) -> None:
        super().__init__()
        self.config = config
        self.condition: Tensor | None = None
        kinds = build_kinds(config.period, config.resolution, config.dac)
        if not (config.mel_weight or config.multi_mel_weight or kinds):
            raise ConfigError(
                "objective has no term on the sound (mel_weight, multi_mel_weight and all "
                "discriminators are off); switch at least one on."
            )
        rate = config.sample_rate
        self.mel = MelSpectrogram(rate, config.mel_n_fft, config.mel_hop, config.mel_bins)
        self.multi_mel = MultiResolutionMel(
            rate, config.multi_mel_sizes, config.multi_mel_bins, config.multi_mel_silence,
            config.multi_mel_magnitudes,
        )  # fmt: skip
        distilled = config.semantic_weight > 0
        self.teacher = build_teacher(config.semantic, rate) if distilled else None
        # Frozen networks stand beside the discriminator, out of every optimizer; their random
        # weights are part of the run's state all the same.
        still = config.official_frozen_dac and config.dac.enabled
        frozen = {"dac": kinds.pop("dac")} if still else {}
        self.untrained = Discriminators(frozen).requires_grad_(False)
        if kinds:
            self.discriminator = Discriminators(kinds)
        self.staged = len({self._terms(kind).start for kind in kinds}) > 1

    def generator_losses(self, x: Tensor, out: TrainingOutput, step: int) -> dict[str, Tensor]:
        """Return the codec's weighted terms by name; see the top of the file.

        Args:
            x: sound (B, 1, T) in [-1, 1].
            out: the codec's output; ``out.reconstruction`` not clamped.
            step: optimizer steps done before this one, from 0.

        Raises:
            ConfigError: the codec returned no sound.
        """
        if out.reconstruction is None:
            raise ConfigError(
                "the audio objective got no reconstruction; train it on a codec that decodes sound."
            )
        config = self.config
        self.last_statistics = {}
        with torch.autocast(x.device.type, enabled=False):
            target, sound = x.detach().float(), out.reconstruction.float()
            losses = self._mel_terms(target, sound, step, "")
            if out.shortened is not None and config.shortened_weight > 0:
                terms = self._mel_terms(target, out.shortened.float(), step, "shortened/")
                losses |= {n: config.shortened_weight * value for n, value in terms.items()}
            losses |= self._verdict_terms(target, sound, step)
            if self.teacher is not None and step >= config.semantic_start:
                raw = semantic_distillation(self.teacher, target, out)
                losses["loss/semantic"] = config.semantic_weight * raw
                self._log({"semantic": raw})
            self._log({**out.losses})
            if config.commitment_weight > 0 and step >= config.commitment_start:
                for name, value in out.losses.items():
                    losses[f"loss/{name}"] = config.commitment_weight * value.float()
        return losses

    def discriminator_active(self, step: int) -> bool:
        """Return whether any kind is trained in this step."""
        return bool(self._learning(step))

    def discriminator_losses(
        self, x: Tensor, out: TrainingOutput, step: int
    ) -> dict[str, Tensor]:
        """Return ``discriminator/KIND`` for the kinds that have started; empty before.

        Args as in `generator_losses`; the output is detached inside.
        """
        kinds = self._learning(step)
        if not kinds or out.reconstruction is None:
            return {}
        assert self.discriminator is not None
        self.last_statistics = {}
        losses: dict[str, Tensor] = {}
        with torch.autocast(x.device.type, enabled=False):
            row = self._row(x)
            real = self.discriminator(x.detach().float(), row, kinds)
            fake = self.discriminator(out.reconstruction.detach().float(), row, kinds)
            for kind, terms in kinds.items():
                raw = LOSSES[kind].discriminator(real[kind], fake[kind])
                losses[f"discriminator/{kind}"] = terms.discriminator * raw
                for name, verdict in (("real", real[kind]), ("fake", fake[kind])):
                    mean = torch.stack([one.logits.detach().mean() for one in verdict]).mean()
                    self._log({f"discriminator/{kind}_logits_{name}": mean})
        return losses

    def _mel_terms(self, target: Tensor, sound: Tensor, step: int, log: str) -> dict[str, Tensor]:
        config, losses = self.config, {}
        if config.mel_weight > 0 and step >= config.mel_start:
            raw = log_mel_distance(self.mel(target), self.mel(sound))
            losses[f"loss/{log}mel"] = config.mel_weight * raw
            self._log({f"{log}mel": raw})
        if config.multi_mel_weight > 0 and step >= config.multi_mel_start:
            raw = self.multi_mel(target, sound)
            losses[f"loss/{log}multi_mel"] = config.multi_mel_weight * raw
            self._log({f"{log}multi_mel": raw})
        return losses

    def _verdict_terms(self, target: Tensor, sound: Tensor, step: int) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        row = self._row(target)
        kinds: dict[str, Any] = self.networks()
        for kind, network in kinds.items():
            terms = self._terms(kind)
            if step < terms.start or not (terms.adversarial or terms.features):
                continue
            fake = network(sound, row)
            if terms.adversarial:
                raw = LOSSES[kind].generator(fake)
                losses[f"loss/{kind}/adversarial"] = terms.adversarial * raw
                self._log({f"{kind}/adversarial": raw})
            if terms.features:
                with torch.no_grad():
                    real = network(target, row)
                raw = feature_matching(real, fake, with_last=LOSSES[kind].last_map)
                raw = raw / len(fake) if LOSSES[kind].averaged else raw
                losses[f"loss/{kind}/features"] = terms.features * raw
                self._log({f"{kind}/features": raw})
        return losses

    def networks(self) -> dict[str, nn.Module]:
        """Return the kinds that are on, trained or not, by name."""
        # Bare, without a distributed wrapper: that one would wait for weight gradients.
        trained: Any = getattr(self.discriminator, "module", self.discriminator)
        return {**(dict(trained.items()) if trained is not None else {}), **self.untrained}

    def _terms(self, kind: str) -> Terms:
        terms: Any = getattr(self.config, kind)
        return terms

    def _learning(self, step: int) -> dict[str, Terms]:
        if self.discriminator is None:
            return {}
        network: Any = getattr(self.discriminator, "module", self.discriminator)
        terms = {kind: self._terms(kind) for kind in network}
        return {kind: term for kind, term in terms.items() if step >= term.start}

    def _row(self, x: Tensor) -> Tensor:
        if self.condition is not None:
            return self.condition.to(x.device)
        rows = min(
            (o.condition_rows for o in (self.config.period, self.config.resolution) if o.enabled),
            default=0,
        )
        # From the CPU generator: the same draw on every device.
        return torch.randint(max(rows, 1), (1,)).to(x.device)


def build_objective(config: AudioObjectiveConfig) -> AudioObjective:
    """Return the objective of a run.

    Raises:
        ConfigError: no term on the sound, impossible sizes, or an unknown teacher.
        WeightsError: a teacher that is not on this machine.
    """
    return AudioObjective(config)
