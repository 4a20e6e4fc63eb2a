"""Perturbed scores of a codec: how fast quality falls when a neighbour code is picked.

    sound ──encode──▶ codes ─┬─ clean ─▶ decode ─▶ measure                      clean
                             └─ perturb(alpha, delta) ─▶ decode ─▶ measure      perturbed

The idea of pFID with the measures of codecs: a language model over codec tokens errs towards nearby
codes, and what a codec makes of such errors is not told by how it reconstructs. The scores have
names of their own (``perturbed/mel_distance``): nothing of the kind is published.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from eval.metric_entry import MetricEntry
from eval.perturbed_decoding import CLEAN, CODEC, PerturbationGrid, PerturbedDecoder
from eval.sound_metric import build_at
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError, MediaError
from tok_core.resample import resample


class PerturbedSound(Metric):
    """Measures of perturbed decodings over a grid, beside those of the clean decoding.

    Args:
        tokenizer: any audio tokenizer of the contract, in eval mode.
        entries: measures, paired (``update(decoded, original)``) or of a single sound. Each is
            built once for every setting, at the tokenizer's output rate where it takes any.
        grid: settings, neighbourhood and seed.
        num_codebooks: budget of the encoding. decode_batch: sounds decoded at a time.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64 scalars, for a measure ``m``: ``perturbed/m`` the mean over the settings,
        ``perturbed/m/clean`` of the unperturbed decoding, ``perturbed/m/loss`` how much worse the
        mean is than that (positive is worse, in the measure's unit), ``perturbed/m/alpha=...``
        each setting. ``perturbed/changed/...`` share of codes that changed, ``perturbed/samples``.
        A measure that returns several values has its key after its name: ``m:key``.

    Raises:
        ConfigError: an image tokenizer, no measure, or one that is neither paired nor single.

    Example:
        >>> score = PerturbedSound(codec, [entry_named("mel_distance"), entry_named("stoi")])
        >>> score.update(sounds, indices, lengths)
        >>> score.compute()["perturbed/mel_distance/loss"]
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    samples: Tensor
    changed: Tensor

    def __init__(
        self,
        tokenizer: Tokenizer,
        entries: Sequence[MetricEntry],
        *,
        grid: PerturbationGrid = CODEC,
        num_codebooks: int | None = None,
        decode_batch: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.rates = _rates(tokenizer)
        for entry in entries:
            if entry.sense != "audio" or entry.kind not in ("paired", "single"):
                raise ConfigError(
                    f"measure '{entry.name}' ({entry.sense}, {entry.kind}) cannot judge perturbed "
                    "sound; legal are paired and single measures of audio."
                )
        if not entries:
            raise ConfigError("no measure was named for perturbed sound; name at least one.")
        self.entries = tuple(entries)
        self.decoder = PerturbedDecoder(
            tokenizer=tokenizer, grid=grid, num_tokens=num_codebooks, decode_batch=decode_batch
        )
        self.labels = (CLEAN, *self.decoder.labels)
        # Row by row: all measures of the clean decoding, then of each setting.
        self.measures = nn.ModuleList(
            build_at(entry, self.rates[1]) for _ in self.labels for entry in self.entries
        )
        zeros = torch.zeros(len(self.labels), dtype=torch.float64)
        self.add_state("changed", zeros, dist_reduce_fx="sum", persistent=True)
        count = torch.zeros((), dtype=torch.int64)
        self.add_state("samples", count, dist_reduce_fx="sum", persistent=True)

    def update(
        self, sounds: Tensor, indices: Sequence[int] | Tensor, lengths: Tensor | None = None
    ) -> None:
        """Take sounds and each one's index in the data set.

        Args:
            sounds: (B, 1, T) float in [-1, 1] at the tokenizer's input rate.
            indices: B places in the whole data set.
            lengths: int64 (B,) valid samples of padded sounds, None for all.
        """
        if not bool(torch.isfinite(sounds).all()):
            raise MediaError("a sound holds NaN or infinity; legal are samples in [-1, 1].")
        numbers = [int(i) for i in indices]
        valid = [sounds.shape[-1]] * len(sounds) if lengths is None else lengths.tolist()
        for place, batch in enumerate(self.decoder.decodings(sounds, numbers, lengths)):
            for sound, decoded, length in zip(sounds, batch.decoded, valid, strict=True):
                self._measure(place, sound[:, :length].cpu(), decoded.cpu())
            self.changed[place] += batch.changed.double().sum().to(self.changed.device)
        self.samples += len(sounds)

    def compute(self) -> dict[str, Tensor]:
        """Return means, settings and losses of every measure; see the class."""
        scores: dict[str, Tensor] = {}
        for column, entry in enumerate(self.entries):
            found = [_numbers(entry, self._metric(row, column).compute())
                     for row in range(len(self.labels))]  # fmt: skip
            for name in found[0]:
                values = torch.stack([row[name] for row in found])
                head = f"perturbed/{name}"
                # A failed setting (NaN) must show in the mean, so nothing is left out here.
                scores[head] = values[1:].mean()
                sign = -1.0 if entry.higher_is_better else 1.0
                if entry.higher_is_better is not None:
                    scores[f"{head}/loss"] = sign * (scores[head] - values[0])
                for label, value in zip(self.labels, values, strict=True):
                    scores[f"{head}/{label}"] = value
        for label, changed in zip(self.labels[1:], self.changed[1:], strict=True):
            scores[f"perturbed/changed/{label}"] = changed.cpu() / max(int(self.samples), 1)
        scores["perturbed/samples"] = self.samples.double().cpu()
        return scores

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Update; the scores are those of a whole set."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Forget everything heard; the neighbour tables stay."""
        super().reset()
        for metric in self.measures:
            assert isinstance(metric, Metric)
            metric.reset()

    def protocol(self) -> dict[str, Any]:
        """Return what these scores depend on beside the sounds, as plain JSON values."""
        return {
            **self.decoder.grid.describe(),
            "delta_clipped_to": min(self.decoder.tokenizer.spec.vocabulary),
            "average": "arithmetic mean of the settings' values, equal weights",
            "num_codebooks": self.decoder.num_tokens,
            "measures": [entry.name for entry in self.entries],
        }

    def _metric(self, row: int, column: int) -> Any:
        return self.measures[row * len(self.entries) + column]

    def _measure(self, row: int, sound: Tensor, decoded: Tensor) -> None:
        """Hand one sound (1, T) and its decoding (1, T') to the measures of one setting."""
        ready: dict[int, tuple[Tensor, Tensor]] = {}
        for column, entry in enumerate(self.entries):
            metric = self._metric(row, column)
            rate = int(getattr(metric, "sample_rate", None) or self.rates[1])
            if rate not in ready:
                first = resample(sound, self.rates[0], rate)
                second = resample(decoded, self.rates[1], rate)
                # A padded batch decodes to its longest; each sound is judged at its own length.
                shortest = min(first.shape[-1], second.shape[-1])
                ready[rate] = (first[:, :shortest], second[:, :shortest])
            original, heard = ready[rate]
            if entry.kind == "paired":
                metric.update(heard, original)
            else:
                metric.update(heard)


def _rates(tokenizer: Tokenizer) -> tuple[int, int]:
    spec = tokenizer.spec
    if spec.modality != "audio" or spec.input_rate is None:
        raise ConfigError(
            f"perturbed sound was asked of a tokenizer of {spec.modality} with input rate "
            f"{spec.input_rate}; it judges codecs that state their rates: use pFID for pictures."
        )
    return spec.input_rate, spec.output_rate or spec.input_rate


def _numbers(entry: MetricEntry, computed: Any) -> dict[str, Tensor]:
    """Return the scalars of a measure by name: its own, or ``name:key`` of a dict."""
    if not isinstance(computed, dict):
        computed = {entry.name: computed}
    else:
        wanted = entry.values or tuple(computed)
        only = len(wanted) == 1
        computed = {entry.name if only else f"{entry.name}:{k}": computed[k] for k in wanted}
    return {
        name: torch.as_tensor(value, dtype=torch.float64).detach().cpu()
        for name, value in computed.items()
    }
