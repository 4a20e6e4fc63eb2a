"""How a generator's run looks at its model: loss at fixed samples, by slot and place, and samples.

Letters: B samples, L positions, F factors, S slots of a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.contract import UNCONDITIONAL, Condition
from generators.drawing import draw_codes
from generators.guidance import Guidance
from generators.token_data import CaptionedSample
from generators.token_objective import TokenObjective, condition_of
from tok_core.image_measures import to_uint8
from tok_core.token_spec import FACTOR_AXES
from tok_core.training.logging import SoundSample

CHUNK = 32  # samples per forward pass
COLUMNS = 8


class GeneratorMonitor:
    """Scores and samples at the same data and seeds for the whole run.

    Args:
        samples: `TokenSample`, `CaptionedSample` or `SignalSample` of B items, on the CPU.
        objective: the run's, which turns samples into codes and conditions.
        tokenizer: paints samples, None for none. shown: how many, labels in turn.
        guidance: of the samples.
    """

    unit = "samples"

    def __init__(
        self, samples: Any, objective: TokenObjective, *, tokenizer: Any = None, shown: int = 16,
        guidance: Guidance | None = None,
    ) -> None:  # fmt: skip
        self.samples, self.objective, self.tokenizer = samples, objective, tokenizer
        self.shown, self.guidance = shown, guidance or Guidance()

    def scores(self, model: Any) -> dict[str, float]:
        """Return mean loss and accuracy per code, the loss of every slot of a window and factor."""
        each, factors, accuracy = self._losses(model)
        found = {"loss": float(factors.mean()), "accuracy": accuracy}
        if len(factors) > 1:
            names = [axis.name for axis in model.spec.axes if axis.name in FACTOR_AXES]
            name = names[0] if len(names) == 1 else "factor"
            found |= {f"loss_{name}_{i}": loss for i, loss in enumerate(factors.tolist())}
        windows = getattr(model, "tables", {}).get("windows")
        if windows is not None and windows.shape[1] > 1:
            slots = each[windows.cpu()].mean(dim=0).tolist()
            found |= {f"loss_slot_{i}": loss for i, loss in enumerate(slots)}
        return found

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return the loss at every place, bright is high, and a grid of samples where painted."""
        each = self._losses(model)[0]
        found = {"loss_per_position": _map(each, model.spec.grid)}
        if self.tokenizer is not None and model.spec.modality == "image":
            found["samples"] = _grid(self._drawn(model))
        return found

    def sounds(self, model: Any) -> dict[str, SoundSample]:
        """Return samples of a generator of sound."""
        if self.tokenizer is None or model.spec.modality != "audio":
            return {}
        rate = model.spec.output_rate
        return {
            f"sample_{i}": SoundSample(sound.numpy(), rate)
            for i, sound in enumerate(self._drawn(model)[:4, 0])
        }

    def _losses(self, model: Any) -> tuple[Tensor, Tensor, float]:
        """Return the mean loss per position (L,) and per factor (F,), and the accuracy, on the CPU.

        A masked generator's positions count only in samples that mask them, so that the mean over
        positions is not its loss; the mean over factors is.
        """
        device = next(model.parameters()).device
        sums, factors, right, count = torch.zeros(()), torch.zeros(()), 0.0, 0
        total = len(self.samples[0])
        for part in torch.arange(total).split(CHUNK):
            x = type(self.samples)(*(field[part].to(device) for field in self.samples))
            out = model(
                self.objective.codes(x),
                condition=condition_of(x, self.objective.config.conditional),
            )
            sums = sums + len(part) * out.statistics["loss_per_position"].cpu()
            factors = factors + len(part) * out.statistics["loss_per_factor"].cpu()
            right += len(part) * float(out.statistics["accuracy"])
            count += len(part)
        return sums / count, factors / count, right / count

    def _drawn(self, model: Any) -> Tensor:
        condition, count = self._shown(model)
        guided = condition != UNCONDITIONAL
        codes = draw_codes(
            model, condition, seeds=range(count), guidance=self.guidance if guided else None
        )
        tokenizer = self.tokenizer.to(codes.device)
        return tokenizer.decode(codes).cpu()


    def _shown(self, model: Any) -> tuple[Condition, int]:
        """Return the condition of what is shown, and how many: labels in turn, first captions."""
        if isinstance(self.samples, CaptionedSample):
            count = min(self.shown, len(self.samples.codes))
            return condition_of(type(self.samples)(*(f[:count] for f in self.samples)), True), count
        if not model.classes:
            return UNCONDITIONAL, self.shown
        return Condition(labels=torch.arange(self.shown) % model.classes), self.shown


def _map(losses: Tensor, grid: tuple[int, int] | None) -> np.ndarray:
    """Paint losses as grey values, in their grid or as one line, enlarged to be seen."""
    rows, columns = grid if grid and grid[0] * grid[1] == len(losses) else (1, len(losses))
    span = (losses - losses.min()) / (losses.max() - losses.min()).clamp(min=1e-6)
    picture = (255 * span).round().to(torch.uint8).view(rows, columns)
    picture = picture.repeat_interleave(8, 0).repeat_interleave(8, 1)
    return picture[..., None].expand(-1, -1, 3).contiguous().numpy()


def _grid(pictures: Tensor) -> np.ndarray:
    """Put pictures (B, 3, H, W) side by side, `COLUMNS` in a row."""
    missing = -len(pictures) % min(COLUMNS, len(pictures))
    full = torch.cat((pictures, pictures.new_ones(missing, *pictures.shape[1:])))
    rows = to_uint8(full).unflatten(0, (-1, min(COLUMNS, len(pictures))))
    r, b, c, h, w = rows.shape
    return rows.permute(0, 3, 1, 4, 2).reshape(r * h, b * w, c).numpy()
