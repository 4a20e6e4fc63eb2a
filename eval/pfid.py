"""pFID: how far reconstructions from perturbed codes lie from the originals.

    originals ──bytes──────────────────────────────────────▶ real side ─┐
    originals ──encode──▶ perturb(alpha, delta) ──decode──▶ bytes ──────┴▶ one distance per setting

The mean over the settings predicts how well a generator over these tokens will do, without one
(Qiu et al. 2025, arXiv 2503.08354).  The distance is whatever is handed in: with the FID extractor
it is pFID, with another the same idea under that extractor's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from eval.perturbed_decoding import CLEAN, ROBUSTTOK, PerturbationGrid, PerturbedDecoder
from tok_core.contract import Tokenizer
from tok_core.errors import ConfigError
from tok_core.image_measures import to_uint8


class PerturbedDistance(Metric):
    """The mean distance of perturbed reconstructions over a grid, with every value behind it.

    Takes part in a loop like any metric, but is updated with originals: it encodes, perturbs and
    decodes by itself. Draws depend on the seed and an item's index alone, so processes may share
    the items in any way.

    Args:
        tokenizer: any image tokenizer of the contract, in eval mode.
        distance: makes a distribution metric: ``update(images uint8 (B, 3, H, W), real=bool)`` and
            ``compute()`` to a number, or to a dict with it under ``value``. Called once per
            setting; let all share one feature extractor. States named ``real...`` are filled once
            and shared.
        grid: settings, neighbourhood and seed.
        value: key in the dict that ``compute`` of the distance returns, None for a plain number.
        num_tokens: budget of the encoding. decode_batch: items decoded at a time.
        to_bytes: byte rule of the protocol, float [-1, 1] to uint8.
        name: of the score, ``pfid`` unless the extractor is not FID's.
        options: of `torchmetrics.Metric`.

    Returns (compute):
        dict of float64 scalars: ``pfid`` the mean over the settings, ``pfid/alpha=...,delta=...``
        each, ``pfid/clean`` the distance of the unperturbed reconstructions (rFID by the same
        protocol), ``pfid/changed/...`` share of codes that changed, ``pfid/samples``.

    Raises:
        ConfigError: an audio tokenizer, or a distance without that value.

    Example:
        >>> score = PerturbedDistance(tokenizer, make_fid, grid=grid_named("robusttok-..."))
        >>> score.update(images, indices)
        >>> score.compute()["pfid"]
    """

    higher_is_better = False
    is_differentiable = False
    full_state_update = False
    samples: Tensor
    changed: Tensor

    def __init__(
        self,
        tokenizer: Tokenizer,
        distance: Callable[[], Metric],
        *,
        grid: PerturbationGrid = ROBUSTTOK,
        value: str | None = None,
        num_tokens: int | None = None,
        decode_batch: int | None = None,
        to_bytes: Callable[[Tensor], Tensor] = to_uint8,
        name: str = "pfid",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if tokenizer.spec.modality != "image":
            raise ConfigError(
                f"{name} was asked of a tokenizer of {tokenizer.spec.modality}; it judges image "
                "tokenizers: use the perturbed scores of eval.perturbed_sound."
            )
        # A plain object: the tokenizer's weights are no state of the metric.
        self.decoder = PerturbedDecoder(
            tokenizer=tokenizer, grid=grid, num_tokens=num_tokens, decode_batch=decode_batch
        )
        self.name, self.value, self.to_bytes = name, value, to_bytes
        self.labels = (CLEAN, *self.decoder.labels)
        # Labels hold dots, which module names must not.
        self.distances = nn.ModuleList(distance() for _ in self.labels)
        zeros = torch.zeros(len(self.labels), dtype=torch.float64)
        self.add_state("changed", zeros, dist_reduce_fx="sum", persistent=True)
        count = torch.zeros((), dtype=torch.int64)
        self.add_state("samples", count, dist_reduce_fx="sum", persistent=True)

    def update(self, originals: Tensor, indices: Sequence[int] | Tensor) -> None:
        """Take originals (B, 3, H, W) float in [-1, 1] and each one's index in the data set."""
        indices = [int(i) for i in indices]
        real = self.to_bytes(originals)
        for place, metric in enumerate(self._metrics()):
            if place == 0 or not _real_states(metric):
                metric.update(real, real=True)
        for place, batch in enumerate(self.decoder.decodings(originals, indices)):
            self._metrics()[place].update(self.to_bytes(batch.decoded), real=False)
            self.changed[place] += batch.changed.double().sum().to(self.changed.device)
        self.samples += len(originals)

    def compute(self) -> dict[str, Tensor]:
        """Return the mean, every setting and the sample count; see the class."""
        self._share_real_side()
        found = [self._number(metric.compute()) for metric in self._metrics()]
        scores = {self.name: torch.stack(found[1:]).mean()}
        for label, number, changed in zip(self.labels, found, self.changed, strict=True):
            scores[f"{self.name}/{label}"] = number
            if label != CLEAN:
                scores[f"{self.name}/changed/{label}"] = changed / self.samples.clamp(min=1)
        scores[f"{self.name}/samples"] = self.samples.double()
        return scores

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Update; a distance of one batch means nothing."""
        self.update(*args, **kwargs)

    def reset(self) -> None:
        """Forget everything seen; the neighbour tables stay."""
        super().reset()
        for metric in self._metrics():
            metric.reset()

    def protocol(self) -> dict[str, Any]:
        """Return what this score depends on beside the images, as plain JSON values."""
        vocabulary = list(self.decoder.tokenizer.spec.vocabulary)
        return {
            **self.decoder.grid.describe(),
            "delta_clipped_to": min(vocabulary),
            "average": "arithmetic mean of the settings' distances, equal weights",
            "num_tokens": self.decoder.num_tokens,
            "byte_rule": getattr(self.to_bytes, "__name__", str(self.to_bytes)),
        }

    def _metrics(self) -> list[Any]:
        return list(self.distances)

    def _share_real_side(self) -> None:
        """Hand the real side, seen by the first distance alone, to the others."""
        first, *others = self._metrics()
        for metric in others:
            for state in _real_states(metric):
                kept = getattr(first, state)
                setattr(metric, state, list(kept) if isinstance(kept, list) else kept.clone())
            metric._computed = None

    def _number(self, computed: Any) -> Tensor:
        if isinstance(computed, dict):
            if self.value not in computed:
                raise ConfigError(
                    f"the distance returns {', '.join(map(str, computed))} and '{self.value}' was "
                    "to be averaged; name one of them as value."
                )
            computed = computed[self.value]
        return torch.as_tensor(computed, dtype=torch.float64).detach().cpu()


def _real_states(metric: Metric) -> list[str]:
    """Return the names of the states that hold the real side, by torchmetrics' habit."""
    return [name for name in metric._defaults if name.startswith("real")]
