"""How a generator's run looks at its model: loss at fixed samples, by slot and place, and samples.

Letters: B samples, L positions, S slots of a window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators.contract import Condition
from generators.drawing import draw_codes
from generators.guidance import Guidance
from generators.token_objective import TokenObjective, condition_of
from tok_core.image_measures import to_uint8
from tok_core.training.logging import SoundSample

CHUNK = 32  # samples per forward pass
COLUMNS = 8


class GeneratorMonitor:
    """Scores and samples at the same data and seeds for the whole run.

    Args:
        samples: `TokenSample` or `SignalSample` of B items, on the CPU.
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
        """Return mean loss and accuracy per code, and the loss of every slot of a window."""
        each, accuracy = self._losses(model)
        found = {"loss": float(each.mean()), "accuracy": accuracy}
        windows = getattr(model, "tables", {}).get("windows")
        if windows is not None and windows.shape[1] > 1:
            slots = each[windows.cpu()].mean(dim=0).tolist()
            found |= {f"loss_slot_{i}": loss for i, loss in enumerate(slots)}
        return found

    def pictures(self, model: Any) -> dict[str, np.ndarray]:
        """Return the loss at every place, bright is high, and a grid of samples where painted."""
        each, _ = self._losses(model)
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

    def _losses(self, model: Any) -> tuple[Tensor, float]:
        """Return the mean loss per position (L,) and the accuracy, on the CPU."""
        device = next(model.parameters()).device
        sums, right, count = torch.zeros(()), 0.0, 0
        total = len(self.samples[0])
        for part in torch.arange(total).split(CHUNK):
            x = type(self.samples)(*(field[part].to(device) for field in self.samples))
            out = model(
                self.objective.model_input(x),
                condition=condition_of(x, self.objective.config.conditional),
            )
            sums = sums + len(part) * out.statistics["loss_per_position"].cpu()
            right += len(part) * float(out.statistics["accuracy"])
            count += len(part)
        return sums / count, right / count

    def _drawn(self, model: Any) -> Tensor:
        classes = model.classes
        labels = torch.arange(self.shown) % classes if classes else None
        codes = draw_codes(
            model, Condition(labels=labels), seeds=range(self.shown),
            guidance=self.guidance if classes else None,
        )  # fmt: skip
        tokenizer = self.tokenizer.to(codes.device)
        return tokenizer.decode(codes).cpu()


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
